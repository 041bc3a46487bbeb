'use strict';

const assert = require('node:assert');
const test = require('node:test');

const { difference, put, valuesAt } = require('../../apps/sam3d/lib/viewer/strokes.js');

test('a stroke is the voxels that it changed', () => {
  const stroke = difference(Uint8Array.of(0, 1, 2, 0), Uint8Array.of(0, 3, 2, 1));
  assert.deepEqual([[...stroke.at], [...stroke.before], [...stroke.after]], [[1, 3], [1, 0], [3, 1]]);
  assert.equal(difference(Uint8Array.of(1, 2), Uint8Array.of(1, 2)), null);
  assert.deepEqual([...valuesAt(Uint8Array.of(7, 8, 9), Uint32Array.of(2, 0))], [9, 7]);
});

test('taken back it leaves what changed since', () => {
  const { at, before, after } = difference(Uint8Array.of(0, 1, 2), Uint8Array.of(3, 3, 3));
  const shown = Uint8Array.of(3, 4, 3);
  put(shown, at, before, after);
  assert.deepEqual([...shown], [0, 4, 2]);
  put(shown, at, after, before);
  assert.deepEqual([...shown], [3, 4, 3]);
});
