'use strict';

const assert = require('node:assert');
const test = require('node:test');

const { keyOf, nameOf, optionText, toSegments } = require('../../apps/sam3d/lib/viewer/starts.js');

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
  const mapped = (names, chosen) => {
    const { table, sentence } = toSegments(names, segmentOf, chosen);
    return [[...table.subarray(0, 4)], sentence];
  };
  assert.deepEqual(mapped({ 1: 'liver', 2: 'lesion' }, 'lesion'), [[0, 3, 2, 0], 'liver, lesion']);
  assert.deepEqual(mapped({ 1: 'liver', 3: 'spine' }, 'lesion'), [[0, 3, 0, 0], 'liver; this server has no spine']);
  assert.deepEqual(mapped({ 1: 'Tumor' }, 'lesion'), [[0, 2, 0, 0], 'Tumor, as lesion']);
  assert.deepEqual(mapped({ 1: 'Tumor' }, 'background'), [[0, 0, 0, 0], 'this server has no Tumor']);
  assert.deepEqual(mapped({ 1: 'a', 2: 'b' }, 'lesion'), [[0, 0, 0, 0], 'this server has no a, b']);
});
