/* Where in an image the patient is, and how near a plane has to be seen for the patient to fill it. */
const sam3dBody = (() => {
  'use strict';

  const N_BINS = 256;
  const N_SAMPLES = 500000; // of an image's voxels, evenly spread, tell where the patient is
  const FEWEST = 0.05; // a table or a tube is narrow: what a slice must hold of body, as a share of the fullest one

  /* Otsu's threshold of values: that which parts them into the two most compact groups. */
  function threshold(values) {
    let low = Infinity;
    let high = -Infinity;
    values.forEach((value) => { low = Math.min(low, value); high = Math.max(high, value); });
    if (high === low) {
      return low; // all of it is one group
    }
    const width = (high - low) / N_BINS;
    const counts = Array(N_BINS).fill(0);
    values.forEach((value) => { counts[Math.min(N_BINS - 1, Math.floor((value - low) / width))] += 1; });
    const total = counts.reduce((sum, count, bin) => sum + count * bin, 0);
    const best = { between: -1, bin: 0 };
    let below = 0;
    let sumBelow = 0;
    counts.slice(0, -1).forEach((count, bin) => {
      below += count;
      sumBelow += count * bin;
      const above = values.length - below;
      const apart = below && above ? sumBelow / below - (total - sumBelow) / above : 0;
      const between = below * above * apart * apart;
      if (between > best.between) {
        Object.assign(best, { between, bin });
      }
    });
    return low + (best.bin + 1) * width;
  }

  /* The first and the last index of the patient on each axis of an image of `dimensions` (I, J, K), whose voxels
     `valueAt(i, j, k)` tells. They are to the outside of what is asked for, where not every voxel is asked for. */
  function extent(valueAt, dimensions) {
    const nVoxels = dimensions.reduce((product, size) => product * size, 1);
    const step = Math.max(1, Math.ceil(Math.cbrt(nVoxels / N_SAMPLES)));
    const [is, js, ks] = dimensions.map((size) => Array.from({ length: Math.ceil(size / step) }, (_, n) => n * step));
    const samples = [];
    ks.forEach((k) => js.forEach((j) => is.forEach((i) => samples.push([i, j, k, valueAt(i, j, k)]))));
    const limit = threshold(samples.map(([, , , value]) => value));
    const body = samples.filter(([, , , value]) => value >= limit);
    return dimensions.map((size, axis) => {
      const counts = Array(size).fill(0);
      body.forEach((sample) => { counts[sample[axis]] += 1; });
      const fewest = Math.max(1, FEWEST * Math.max(...counts));
      const isBody = (count) => count >= fewest;
      return [Math.max(0, counts.findIndex(isBody) - step + 1), Math.min(size - 1, counts.findLastIndex(isBody) + step - 1)];
    });
  }

  /* The eight corners of an extent. */
  function corners([i, j, k]) {
    return i.flatMap((atI) => j.flatMap((atJ) => k.map((atK) => [atI, atJ, atK])));
  }

  /* How to move a camera in its plane, and half the height it must show, so that all `points` (mm) are in a viewport of
     this `aspect`, width to height. */
  function view(points, { focalPoint, viewUp, viewPlaneNormal }, aspect) {
    const right = cross(viewUp, viewPlaneNormal);
    const [across, up] = [right, viewUp].map((axis) => {
      const at = points.map((point) => dot(point, axis) - dot(focalPoint, axis));
      const [low, high] = [Math.min(...at), Math.max(...at)];
      return { middle: (low + high) / 2, half: (high - low) / 2 };
    });
    const shift = [0, 1, 2].map((axis) => across.middle * right[axis] + up.middle * viewUp[axis]);
    return { shift, halfHeight: Math.max(up.half, across.half / aspect) };
  }

  function dot(a, b) {
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
  }

  function cross(a, b) {
    return [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
  }

  return { threshold, extent, corners, view };
})();
if (typeof module !== 'undefined') {
  module.exports = sam3dBody;
}
