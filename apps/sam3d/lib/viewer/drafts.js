/* What was not submitted yet, kept by this browser until it is: clicks and masks survive a reload, and a crash. */
const sam3dDrafts = (() => {
  'use strict';

  const DATABASE = 'sam3d';
  const STORE = 'drafts';
  const MOST = 20; // cases; those that were left alone for longest are forgotten

  /* Masks are mostly nothing: packed they take a thousandth of the room. */
  async function pack(voxels) {
    const packed = new Blob([voxels]).stream().pipeThrough(new CompressionStream('gzip'));
    return new Uint8Array(await new Response(packed).arrayBuffer());
  }

  async function unpack(packed) {
    const voxels = new Blob([packed]).stream().pipeThrough(new DecompressionStream('gzip'));
    return new Uint8Array(await new Response(voxels).arrayBuffer());
  }

  /* Of the drafts that there are, the series of those to forget. */
  function outdated(drafts) {
    return [...drafts].sort((one, other) => other.when - one.when).slice(MOST).map(({ series }) => series);
  }

  /* A draft is `series`, `when` in ms, `masks`, `strokes` and what it started from packed, and `clicks`. */
  async function keep(draft) {
    await inStore('readwrite', (store) => store.put(draft));
    const known = await inStore('readonly', (store) => store.getAll());
    await Promise.all(outdated(known).map(drop));
  }

  function read(series) {
    return inStore('readonly', (store) => store.get(series));
  }

  function drop(series) {
    return inStore('readwrite', (store) => store.delete(series));
  }

  async function inStore(mode, deed) {
    const database = await opened();
    try {
      return await answered(deed(database.transaction(STORE, mode).objectStore(STORE)));
    } finally {
      database.close();
    }
  }

  function opened() {
    const request = window.indexedDB.open(DATABASE, 1);
    request.onupgradeneeded = () => request.result.createObjectStore(STORE, { keyPath: 'series' });
    return answered(request);
  }

  function answered(request) {
    return new Promise((resolve, reject) => {
      request.onsuccess = () => resolve(request.result);
      request.onerror = () => reject(request.error);
    });
  }

  return { keep, read, drop, pack, unpack, outdated };
})();
if (typeof module !== 'undefined') {
  module.exports = sam3dDrafts;
}
