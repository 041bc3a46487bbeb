'use strict';

const assert = require('node:assert');
const test = require('node:test');

const { keyOf, nameOf, optionText, toLabelmap } = require('../../apps/sam3d/lib/viewer/starts.js');

const label = { kind: 'label', tag: 'final', version: 2, by: 'Anna', when: '2026-12-01T10:36:00', labels: ['lesion', 'liver'] };
const draft = { kind: 'draft', tag: 'original', version: 1, by: 'sam3d_auto v3', when: '2026-12-01T10:36:00', labels: [] };
const seg = { kind: 'seg', seg: '1.2.3', when: '2030-01-01T10:00:00', labels: ['Tumor'] };

test('what can be started from says what it is, when it was made and what it holds', () => {
  assert.equal(optionText(label, 'en-GB'), 'Version 2 by Anna, 01/12/2026, 10:36: lesion, liver');
  assert.equal(optionText(draft, 'en-GB'), 'Draft by sam3d_auto v3, 01/12/2026, 10:36');
  assert.equal(nameOf({ ...draft, tag: 'second', by: '' }), 'Draft second by a model');
  assert.equal(optionText(seg, 'en-GB'), 'SEG of the archive, 01/01/2030, 10:00: Tumor');
});

test('it is asked for as the server names it', () => {
  assert.deepEqual(keyOf(label), { tag: 'final', version: 2 });
  assert.deepEqual(keyOf(seg), { seg: '1.2.3' });
});

test('names lead to segments, and a structure of another name is the label that is chosen', () => {
  const segmentOf = { lesion: 2, liver: 3 };
  const voxels = Uint8Array.of(0, 1, 2, 3);
  const mapped = (names, chosen) => {
    const structures = Object.entries(names).map(([value, name]) => ({ name, value: Number(value), layer: 0 }));
    const { labelmap, sentence } = toLabelmap({ voxels, nLayers: 1, structures }, segmentOf, chosen);
    return [[...labelmap], sentence];
  };
  assert.deepEqual(mapped({ 1: 'liver', 2: 'lesion' }, 'lesion'), [[0, 3, 2, 0], 'liver, lesion']);
  assert.deepEqual(mapped({ 1: 'liver', 3: 'spine' }, 'lesion'), [[0, 3, 0, 0], 'liver; this server has no spine']);
  assert.deepEqual(mapped({ 1: 'Tumor' }, 'lesion'), [[0, 2, 0, 0], 'Tumor, as lesion']);
  assert.deepEqual(mapped({ 1: 'Tumor' }, 'background'), [[0, 0, 0, 0], 'this server has no Tumor']);
  assert.deepEqual(mapped({ 1: 'a', 2: 'b' }, 'lesion'), [[0, 0, 0, 0], 'this server has no a, b']);
});

test('where structures overlap the smaller one shows, whichever comes first, and it is said', () => {
  const segmentOf = { lesion: 2, liver: 3 };
  const inLayers = (...layers) => Uint8Array.from(layers[0].flatMap((_, voxel) => layers.map((layer) => layer[voxel])));
  const liver = [1, 1, 1, 1, 0];
  const lesion = [0, 2, 2, 0, 2];
  const spine = [0, 3, 0, 0, 0];
  const of = (name, value, layer) => ({ name, value, layer });
  const both = [of('liver', 1, 0), of('lesion', 2, 1)];
  const expected = { labelmap: Uint8Array.of(3, 2, 2, 3, 2), sentence: 'liver, lesion; lesion hides liver in 2 voxels' };
  assert.deepEqual(toLabelmap({ voxels: inLayers(liver, lesion), nLayers: 2, structures: both }, segmentOf, 'liver'), expected);
  const turned = { voxels: inLayers(lesion, liver), nLayers: 2, structures: [of('lesion', 2, 0), of('liver', 1, 1)] };
  assert.deepEqual(toLabelmap(turned, segmentOf, 'liver'), { ...expected, sentence: 'lesion, liver; lesion hides liver in 2 voxels' });
  // What this server has no label for makes no hole.
  const three = { voxels: inLayers(liver, lesion, spine), nLayers: 3, structures: [...both, of('spine', 3, 2)] };
  assert.deepEqual(toLabelmap(three, segmentOf, 'liver'), {
    ...expected, sentence: 'liver, lesion; this server has no spine; lesion hides liver in 2 voxels',
  });
});
