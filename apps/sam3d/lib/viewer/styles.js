/* How our bar and its dialogs look, and what of the viewer's own panel cannot be read. */
(() => {
  'use strict';

  /* The viewer's figures are white on white; and a panel longer than the window has no scroll bar, but the focus on what
     is below moves the whole page, images and all, with no way back. */
  const style = document.createElement('style');
  style.textContent = `
    .monaiLabelPanel { position: relative; overflow-y: auto; scrollbar-width: thin; }
    .monaiLabelPanel .w3-container { color: #000; }
    .monaiLabelPanel[data-folded=true] > :not(.tabs, #sam3d-bar) { display: none; }
    .monaiLabelPanel .tabs { display: flex; flex-direction: column; }
    .monaiLabelPanel .tabs > .tab { flex-shrink: 0; }
    .monaiLabelPanel [data-sam3d-first] { order: -1; }
    .monaiLabelPanel [data-sam3d-first] tbody { counter-reset: label -1; }
    .monaiLabelPanel [data-sam3d-first] .clickable-row { counter-increment: label; cursor: pointer; }
    .monaiLabelPanel [data-sam3d-first] .clickable-row:nth-child(n + 2):nth-child(-n + 10) td:last-child::after { content: counter(label); float: right; opacity: .7; }
    .monaiLabelPanel .tab-content, .monaiLabelPanel .tab-content * { font-size: 13px !important; }
    .monaiLabelPanel .tab-content a { color: #ff9a9a !important; }
    #sam3d-bar { position: sticky; top: 0; z-index: 1; background: #000; margin: 8px 4px; padding: 6px; border: 1px solid #3a3f99; border-radius: 4px; color: #fff; font-size: 13px; }
    #sam3d-bar button { margin: 2px; padding: 3px 8px; border: 1px solid #5acce6; border-radius: 4px; }
    #sam3d-bar button:disabled { opacity: .4; }
    #sam3d-bar label { display: block; margin: 2px; }
    #sam3d-bar button[aria-pressed=true] { background: #348cfd; }
    #sam3d-bar [role=status] { min-height: 3.9em; margin-top: 4px; overflow-wrap: anywhere; }
    #sam3d-bar[data-state=failed] [role=status] { color: #ff9a9a; }
    #sam3d-brush { appearance: auto; width: 9em; height: 1em; padding: 0; border: 0; background: transparent; accent-color: #5acce6; vertical-align: middle; }
    #sam3d-volumes { font-variant-numeric: tabular-nums; }
    #sam3d-volumes > div { margin: 3px 0; padding-left: 6px; border-left: 10px solid; }
    #sam3d-volumes button { margin: 0 1px; padding: 0 5px; font-size: 12px; }
    #sam3d-training, #sam3d-scores { color: #a0a8ff; overflow-wrap: anywhere; }
    #sam3d-case { margin: 4px 0; padding: 4px 0; border-top: 1px solid #3a3f99; border-bottom: 1px solid #3a3f99; overflow-wrap: anywhere; }
    #sam3d-case [data-part=others] { color: #ffd27a; }
    #sam3d-case input { width: 11em; padding: 1px 4px; border: 1px solid #3a3f99; border-radius: 4px; background: #000; color: #fff; }
    .sam3d-dialog { margin: auto; padding: 12px 16px; border: 1px solid #5acce6; border-radius: 4px; background: #000; color: #fff; }
    .sam3d-dialog button { margin: 2px; padding: 3px 8px; border: 1px solid #5acce6; border-radius: 4px; }
    .sam3d-dialog button:focus-visible { background: #348cfd; }
    #sam3d-choice button { display: block; width: 100%; text-align: left; white-space: pre; }
    #sam3d-comment textarea { color: #000; }
    #sam3d-keys td { padding: 2px 16px 2px 0; }`;
  document.head.appendChild(style);
})();
