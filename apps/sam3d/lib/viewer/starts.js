/* What the open case can start from: stored versions, drafts of a model, SEGs of the archive. */
const sam3dStarts = (() => {
  'use strict';

  /* As in `Version 2 by Anna, 12/1/2026, 10:36 AM: lesion, liver`; `start` is one of what /cases/starts lists. */
  function nameOf(start) {
    switch (start.kind) {
      case 'label':
        return `Version ${start.version} by ${start.by || 'somebody'}`;
      case 'draft':
        return `Draft ${start.tag === 'original' ? '' : `${start.tag} `}by ${start.by || 'a model'}`;
      default:
        return 'SEG of the archive';
    }
  }

  function optionText(start, locale) {
    const when = new Date(start.when).toLocaleString(locale, { dateStyle: 'short', timeStyle: 'short' });
    return `${nameOf(start)}, ${when}${start.labels.length ? `: ${start.labels.join(', ')}` : ''}`;
  }

  /* What names a start in a request. */
  function keyOf({ seg, tag, version }) {
    return seg ? { seg } : { tag, version };
  }

  /* A labelmap of the viewer's segments, by names, of a segmentation as sam3dReplies reads one; and what to say of names
     that the server has not, and of voxels that are of several structures: they are the smaller one's, a lesion's in its
     organ. A foreign mask of one structure is the label that is `chosen`, whatever it is called there. */
  function toLabelmap({ voxels, nLayers, structures }, segmentOf, chosen) {
    const known = structures.filter(({ name }) => segmentOf[name]);
    const strangers = structures.filter(({ name }) => !segmentOf[name]);
    const isTaken = !known.length && strangers.length === 1 && Boolean(segmentOf[chosen]);
    const drawn = isTaken ? [{ ...strangers[0], label: chosen }] : known.map((each) => ({ ...each, label: each.name }));
    const { labelmap, hidden } = drawnOver(voxels, nLayers, drawn.map((each) => ({ ...each, segment: segmentOf[each.label] })));
    const names = isTaken ? `${strangers[0].name}, as ${chosen}` : known.map(({ name }) => name).join(', ');
    const lacking = !isTaken && strangers.length ? `this server has no ${strangers.map(({ name }) => name).join(', ')}` : '';
    return { labelmap, sentence: [names, lacking, ...hidden].filter(Boolean).join('; ') };
  }

  /* The structures one over the other, the largest first; and which hides how much of which. */
  function drawnOver(voxels, nLayers, structures) {
    const labelmap = new Uint8Array(voxels.length / nLayers);
    const nameOfSegment = Object.fromEntries(structures.map(({ segment, label }) => [segment, label]));
    const eachVoxel = ({ layer, value }, meet) => {
      for (let voxel = 0; voxel < labelmap.length; voxel += 1) {
        if (voxels[voxel * nLayers + layer] === value) {
          meet(voxel);
        }
      }
    };
    const sized = structures.map((each) => {
      let size = 0;
      eachVoxel(each, () => { size += 1; });
      return { ...each, size };
    });
    const hidden = sized.sort((a, b) => b.size - a.size).flatMap((each) => {
      const covered = {};
      eachVoxel(each, (voxel) => {
        const below = labelmap[voxel];
        if (below) {
          covered[below] = (covered[below] || 0) + 1;
        }
        labelmap[voxel] = each.segment;
      });
      return Object.entries(covered)
        .map(([below, count]) => `${each.label} hides ${nameOfSegment[below]} in ${count} voxel${count === 1 ? '' : 's'}`);
    });
    return { labelmap, hidden };
  }

  return { nameOf, optionText, keyOf, toLabelmap };
})();
if (typeof module !== 'undefined') {
  module.exports = sam3dStarts;
}
