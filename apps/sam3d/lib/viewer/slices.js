/* Where a label begins, ends and is widest, slice by slice. */
const sam3dSlices = (() => {
  'use strict';

  /* The first, the last and the largest slice (k) of a label in a labelmap of `dimensions` (I, J, K), i fastest: for each
     the voxel [i, j, k] of the label that is nearest to its middle there. Null for a label without a voxel. */
  function landmarks(labelmap, dimensions, segment) {
    const areas = areasOf(labelmap, dimensions, segment);
    const first = areas.findIndex((area) => area > 0);
    if (first < 0) {
      return null;
    }
    const last = areas.findLastIndex((area) => area > 0);
    const largest = areas.reduce((best, area, k) => (area > areas[best] ? k : best), first);
    const at = (k) => middleOf(labelmap, dimensions, segment, k);
    return { first: at(first), last: at(last), largest: at(largest) };
  }

  function areasOf(labelmap, [columns, rows, slices], segment) {
    const areas = Array(slices).fill(0);
    const size = columns * rows;
    for (let voxel = 0; voxel < labelmap.length; voxel += 1) {
      if (labelmap[voxel] === segment) {
        areas[Math.floor(voxel / size)] += 1;
      }
    }
    return areas;
  }

  function middleOf(labelmap, [columns, rows], segment, k) {
    const begin = k * columns * rows;
    const found = [];
    for (let voxel = 0; voxel < columns * rows; voxel += 1) {
      if (labelmap[begin + voxel] === segment) {
        found.push([voxel % columns, Math.floor(voxel / columns)]);
      }
    }
    const mean = [0, 1].map((axis) => found.reduce((sum, at) => sum + at[axis], 0) / found.length);
    const distance = ([i, j]) => (i - mean[0]) ** 2 + (j - mean[1]) ** 2;
    const [i, j] = found.reduce((best, at) => (distance(at) < distance(best) ? at : best));
    return [i, j, k];
  }

  return { landmarks };
})();
if (typeof module !== 'undefined') {
  module.exports = sam3dSlices;
}
