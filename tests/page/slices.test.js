'use strict';

const assert = require('node:assert');
const test = require('node:test');

const { landmarks } = require('../../apps/sam3d/lib/viewer/slices.js');

const DIMENSIONS = [3, 2, 4]; // columns, rows, slices

test('a label begins, ends and is widest where its voxels say so', () => {
  const labelmap = Uint8Array.from([
    ...[0, 0, 0, 2, 0, 0],
    ...[1, 0, 0, 0, 0, 2],
    ...[1, 1, 1, 0, 0, 0],
    ...[0, 0, 0, 0, 1, 0],
  ]);
  assert.deepEqual(landmarks(labelmap, DIMENSIONS, 1), { first: [0, 0, 1], last: [1, 1, 3], largest: [1, 0, 2] });
  assert.deepEqual(landmarks(labelmap, DIMENSIONS, 2), { first: [0, 1, 0], last: [2, 1, 1], largest: [0, 1, 0] });
  assert.equal(landmarks(labelmap, DIMENSIONS, 3), null);
});

test('where the middle of a slice is not of the label, the voxel next to it is', () => {
  const labelmap = new Uint8Array(24);
  labelmap.set([1, 0, 1, 1, 0, 1], 6);
  const { largest } = landmarks(labelmap, DIMENSIONS, 1);
  assert.equal(labelmap[largest[0] + 3 * largest[1] + 6 * largest[2]], 1);
});
