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

  /* The segment of each value of a mask, by the names of both, and what to say of names that the server has not. A
     foreign mask of one structure is the label that is `chosen`, whatever it is called there. */
  function toSegments(names, segmentOf, chosen) {
    const known = Object.values(names).filter((name) => segmentOf[name]);
    const strangers = Object.values(names).filter((name) => !segmentOf[name]);
    const isTaken = !known.length && strangers.length === 1 && segmentOf[chosen];
    const table = new Uint8Array(256);
    Object.entries(names).forEach(([value, name]) => { table[value] = segmentOf[name] || (isTaken ? segmentOf[chosen] : 0); });
    if (isTaken) {
      return { table, sentence: `${strangers[0]}, as ${chosen}` };
    }
    const lacking = strangers.length ? `this server has no ${strangers.join(', ')}` : '';
    return { table, sentence: [known.join(', '), lacking].filter(Boolean).join('; ') };
  }

  return { nameOf, optionText, keyOf, toSegments };
})();
if (typeof module !== 'undefined') {
  module.exports = sam3dStarts;
}
