'use strict';

const assert = require('node:assert');
const test = require('node:test');

const { corners, extent, threshold, view } = require('../../apps/sam3d/lib/viewer/body.js');

/* A box of tissue in air, with what else is given at its places. */
const imageOf = (box, others = {}) => (i, j, k) => {
  const isIn = [i, j, k].every((at, axis) => box[axis][0] <= at && at <= box[axis][1]);
  return others[[i, j, k]] ?? (isIn ? 40 : -1000);
};

test('the threshold parts the values where two groups are most compact', () => {
  const found = threshold([-1000, -990, -1000, 30, 40, 50, 60]);
  assert.ok(found > -990 && found <= 30, `${found}`);
  assert.ok(Number.isFinite(threshold([7, 7, 7])));
});

test('the patient is where most of each slice is tissue, and a tube beside is not', () => {
  const box = [[10, 29], [5, 24], [0, 9]];
  assert.deepEqual(extent(imageOf(box), [40, 30, 10]), box);
  const tube = Object.fromEntries(Array.from({ length: 8 }, (_, k) => [[2, 2, k], 500]));
  assert.deepEqual(extent(imageOf(box, tube), [40, 30, 10]), box);
});

test('an image that is one value is seen whole', () => {
  assert.deepEqual(extent(() => 0, [4, 3, 2]), [[0, 3], [0, 2], [0, 1]]);
});

test('a large image is looked at here and there, and nothing of the patient is left out', () => {
  const box = [[101, 300], [57, 211], [33, 140]];
  let asked = 0;
  const found = extent((i, j, k) => { asked += 1; return imageOf(box)(i, j, k); }, [400, 300, 200]);
  assert.ok(asked < 1000000, `${asked} voxels were asked for`);
  found.forEach(([first, last], axis) => {
    assert.ok(first <= box[axis][0] && first > box[axis][0] - 8, `axis ${axis} begins at ${first}`);
    assert.ok(last >= box[axis][1] && last < box[axis][1] + 8, `axis ${axis} ends at ${last}`);
  });
});

test('a plane is moved to the middle of the body and shows all of it, in a wide viewport and in a tall one', () => {
  const points = corners([[0, 100], [20, 60], [0, 8]]);
  assert.equal(points.length, 8);
  const axial = { focalPoint: [0, 0, 3], viewUp: [0, -1, 0], viewPlaneNormal: [0, 0, -1] };
  const { shift, halfHeight } = view(points, axial, 4);
  assert.deepEqual(shift.map((mm) => mm + 0), [50, 40, 0]);
  assert.equal(halfHeight, 20);
  assert.equal(view(points, axial, 1).halfHeight, 50);
  assert.equal(view(points, axial, 0.5).halfHeight, 100);
});
