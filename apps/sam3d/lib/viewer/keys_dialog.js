/* The list of keys, which `?` shows and hides. */
const sam3dKeysDialog = (() => {
  'use strict';

  function show() {
    const dialog = document.createElement('dialog');
    dialog.id = 'sam3d-keys';
    dialog.className = 'sam3d-dialog';
    const rows = sam3dKeys.HELP.map(([keys, meaning]) => `<tr><td><b>${keys}</b></td><td>${meaning}</td></tr>`);
    dialog.innerHTML = `<table>${rows.join('')}</table><form method="dialog"><button>Close</button></form>`;
    dialog.onclose = () => dialog.remove();
    dialog.onkeydown = (event) => {
      event.stopPropagation(); // the viewer takes Escape for its own
      if (event.key === '?') {
        dialog.close();
      }
    };
    document.body.appendChild(dialog);
    dialog.showModal();
  }

  return { show };
})();
