'use strict';

const assert = require('node:assert');
const test = require('node:test');

const { ERASED, compacted, noted, painted } = require('../../apps/sam3d/lib/viewer/painting.js');

const bytes = (...values) => Uint8Array.from(values);
const table = (entries) => Object.entries(entries).reduce((all, [at, value]) => { all[at] = value; return all; }, new Uint8Array(256));

test('what a brush painted and erased is added to what is known of it', () => {
  const first = noted(bytes(0, 2, 3), bytes(0, 0, 3), null);
  assert.deepEqual([[...first.strokes], [...first.touched]], [[0, 2, 0], [2]]);
  const second = noted(bytes(0, 2, 0), bytes(0, 2, 3), first.strokes);
  assert.deepEqual([[...second.strokes], [...second.touched]], [[0, 2, ERASED], [3]]);
  assert.deepEqual([...noted(bytes(0, 1), null, null).strokes], [0, 1]);
});

test('an answer replaces its own labels, covers others, and gives back what it covered', () => {
  const toSegment = table({ 1: 2, 2: 3 });
  const onlyFirst = table({ 2: 1 });
  const one = painted(bytes(2, 2, 3, 0), bytes(0, 1, 1, 0), toSegment, onlyFirst, null);
  assert.deepEqual([[...one.result], [...one.under]], [[0, 2, 2, 0], [0, 0, 3, 0]]);
  const none = painted(one.result, bytes(0, 0, 0, 0), toSegment, onlyFirst, one.under);
  assert.deepEqual([...none.result], [0, 0, 3, 0]);
  const both = painted(one.result, bytes(0, 0, 2, 0), toSegment, table({ 2: 1, 3: 1 }), one.under);
  assert.deepEqual([...both.result], [0, 0, 3, 0]);
});

test('what is submitted is numbered without gaps', () => {
  const segments = [{ label: 'background', segmentIndex: 1 }, { label: 'lesion', segmentIndex: 2 }, { label: 'liver', segmentIndex: 4 }];
  const { data, present } = compacted(bytes(0, 4, 2, 4), { 2: 1, 4: 2 }, segments);
  assert.deepEqual([[...data], present.map(({ label }) => label)], [[0, 2, 1, 2], ['lesion', 'liver']]);
});
