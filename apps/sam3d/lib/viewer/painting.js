/* What becomes of a labelmap, voxel by voxel, when an answer comes, a brush has painted, or it is submitted. */
const sam3dPainting = (() => {
  'use strict';

  const ERASED = 255; // in what is sent of brushes: no label

  /* Brush work since the last answer, `before`, put to the strokes that are known: each voxel that differs, with its
     segment or as erased. Gives the strokes and the segments that were touched. Lists that are null are empty. */
  function noted(shown, before, known) {
    const strokes = known || new Uint8Array(shown.length);
    const touched = new Set();
    for (let i = 0; i < shown.length; i += 1) {
      const was = before ? before[i] : 0;
      if (shown[i] !== was) {
        strokes[i] = shown[i] || ERASED;
        touched.add(shown[i] || was);
      }
    }
    return { strokes, touched };
  }

  /* The new labelmap: `mask` on top, what it replaces gone, and what lay under that back again. `toSegment` has a segment
     for each value of the mask, `isReplaced` says of each segment whether the mask says all there is to say of it. `under`
     is the segment below each voxel that an earlier mask took from another label, or null; it is brought up to date. */
  function painted(shown, mask, toSegment, isReplaced, under) {
    const below = under || new Uint8Array(shown.length);
    const result = new Uint8Array(shown.length);
    for (let i = 0; i < result.length; i += 1) {
      const base = isReplaced[shown[i]] ? below[i] : shown[i];
      const rest = isReplaced[base] ? 0 : base;
      const top = toSegment[mask[i]];
      result[i] = top || rest;
      below[i] = top && rest !== top ? rest : 0;
    }
    return { result, under: below };
  }

  /* The labelmap with the segments that have voxels numbered 1, 2, ..., as the server reads `label_info`; and those
     segments, in that order. */
  function compacted(shown, counts, segments) {
    const present = segments.filter(({ segmentIndex }) => counts[segmentIndex] > 0);
    const value = new Uint8Array(256);
    present.forEach(({ segmentIndex }, index) => { value[segmentIndex] = index + 1; });
    return { data: shown.map((segment) => value[segment]), present };
  }

  return { ERASED, noted, painted, compacted };
})();
if (typeof module !== 'undefined') {
  module.exports = sam3dPainting;
}
