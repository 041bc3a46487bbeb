/* How far the scores of Next Sample are, in words. */
const sam3dScores = (() => {
  'use strict';

  /* The server's sentence while scores are being made, and what it could not score; nothing once all have one. */
  function sentence(progress) {
    if (!progress || (!progress.is_running && !progress.unscored.length)) {
      return '';
    }
    const names = progress.unscored.length ? ` (${progress.unscored.slice(0, 3).join(', ')}${progress.unscored.length > 3 ? ', …' : ''})` : '';
    return `Next Sample: ${progress.message}${names}`;
  }

  return { sentence };
})();
if (typeof module !== 'undefined') {
  module.exports = sam3dScores;
}
