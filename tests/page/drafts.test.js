'use strict';

const assert = require('node:assert');
const test = require('node:test');

const { outdated, pack, unpack } = require('../../apps/sam3d/lib/viewer/drafts.js');

test('masks are packed and come back to the voxel', async () => {
  const voxels = new Uint8Array(1e6);
  voxels.set([1, 2, 255], 5000);
  const packed = await pack(voxels);
  assert.ok(packed.length < 2000);
  assert.deepEqual(await unpack(packed), voxels);
});

test('the drafts that were left alone for longest are forgotten', () => {
  const drafts = Array.from({ length: 22 }, (_, n) => ({ series: `${n}`, when: (n * 7) % 22 }));
  const oldest = drafts.filter(({ when }) => when < 2).map(({ series }) => series);
  assert.deepEqual(outdated(drafts).sort(), oldest.sort());
  assert.deepEqual(outdated(drafts.slice(0, 20)), []);
});
