/* Which key means what. Digits go by their place on the keyboard, for a French one has them above its punctuation;
   letters go by what is printed on them, for a German one has Z where others have Y. */
const sam3dKeys = (() => {
  'use strict';

  const LETTERS = {
    ...{ b: 'brush', e: 'eraser', c: 'click', n: 'next', o: 'outline', g: 'largest', f: 'layout', s: 'narrower', w: 'wider' },
    ...{ d: 'download', m: 'start' },
  };
  /* A letter that slips says nothing to others: what a reviewer decides takes Shift. */
  const WITH_SHIFT = { a: 'approve', x: 'send_back', n: 'review_next' };
  const HELP = [
    ['1 … 9', 'choose a label'],
    ['C', 'click'],
    ['Alt + click', 'background: this is not it'],
    ['B, E', 'brush, eraser'],
    ['S, W', 'a smaller brush, a wider one'],
    ['Ctrl + Z', 'take a click or a stroke back'],
    ['Ctrl + Shift + Z', 'make it again'],
    ['Space', 'hide the masks, show them'],
    ['O', 'masks as outlines, or filled'],
    ['G', 'go to the largest slice of the label'],
    ['F', 'one large view, all three'],
    ['Enter', 'submit the label'],
    ['N', 'next case'],
    ['M', 'start from a mask that there is'],
    ['D', 'download the label'],
    ['Shift + A', 'approve the label'],
    ['Shift + X', 'send it back, and say why'],
    ['Shift + N', 'next label to review'],
    ['?', 'these keys'],
  ];

  /* What a keydown event asks for, as in `label 2`; empty for keys that are not ours. */
  function actionOf({ code = '', key = '', ctrlKey, metaKey, altKey, shiftKey }) {
    if (altKey) {
      return '';
    }
    if (ctrlKey || metaKey) {
      const undo = shiftKey ? 'redo' : 'undo';
      return key.toLowerCase() === 'z' ? undo : '';
    }
    if (key === '?') {
      return 'help';
    }
    const [, row, digit] = /^(Digit|Numpad)([1-9])$/.exec(code) || [];
    if (row === 'Digit' || (row && key === digit)) { // without Num Lock the pad moves
      return `label ${digit}`;
    }
    if (key === ' ') {
      return 'masks';
    }
    const letter = key.toLowerCase();
    return key === 'Enter' ? 'submit' : (shiftKey && WITH_SHIFT[letter]) || LETTERS[letter] || '';
  }

  return { actionOf, HELP };
})();
if (typeof module !== 'undefined') {
  module.exports = sam3dKeys;
}
