/* What a brush did to a labelmap, voxel by voxel, so that it can be taken back and made again. */
const sam3dStrokes = (() => {
  'use strict';

  /* The voxels in which two labelmaps differ, with the values that they have in both; null if in none. */
  function difference(before, after) {
    let length = 0;
    for (let i = 0; i < after.length; i += 1) {
      length += before[i] !== after[i];
    }
    if (!length) {
      return null;
    }
    const at = new Uint32Array(length);
    for (let i = 0, n = 0; n < length; i += 1) {
      if (before[i] !== after[i]) {
        at[n] = i;
        n += 1;
      }
    }
    return { at, before: valuesAt(before, at), after: valuesAt(after, at) };
  }

  function valuesAt(labelmap, at) {
    return Uint8Array.from(at, (voxel) => labelmap[voxel]);
  }

  /* Gives voxels other values, where they still have those that are `expected`: what changed since stays. */
  function put(labelmap, at, values, expected) {
    at.forEach((voxel, n) => {
      if (labelmap[voxel] === expected[n]) {
        labelmap[voxel] = values[n];
      }
    });
  }

  return { difference, put, valuesAt };
})();
if (typeof module !== 'undefined') {
  module.exports = sam3dStrokes;
}
