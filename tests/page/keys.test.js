'use strict';

const assert = require('node:assert');
const test = require('node:test');

const { actionOf, HELP } = require('../../apps/sam3d/lib/viewer/keys.js');

const press = (code, key, held = {}) => actionOf({ code, key, ...held });
const ctrl = { ctrlKey: true };

test('digits choose labels on keyboards that print them above punctuation', () => {
  assert.equal(press('Digit1', '1'), 'label 1'); // US, German
  assert.equal(press('Digit1', '&'), 'label 1'); // French
  assert.equal(press('Digit2', '2', { shiftKey: true }), 'label 2'); // French, with Shift
  assert.equal(press('Numpad9', '9'), 'label 9');
  assert.equal(press('Numpad9', 'PageUp'), '');
  assert.equal(press('Digit0', '0'), '');
});

test('letters are those that are printed', () => {
  assert.equal(press('KeyY', 'z', ctrl), 'undo'); // German
  assert.equal(press('KeyW', 'z', ctrl), 'undo'); // French
  assert.equal(press('KeyZ', 'Z', { ...ctrl, shiftKey: true }), 'redo');
  assert.equal(press('KeyZ', 'y', ctrl), ''); // German
  assert.equal(press('KeyZ', 'z', { metaKey: true }), 'undo');
  assert.equal(press('KeyB', 'b'), 'brush');
  assert.equal(press('KeyE', 'E'), 'eraser');
  assert.equal(press('KeyO', 'o'), 'outline');
  assert.equal(press('KeyG', 'g'), 'largest');
  assert.equal(press('KeyF', 'f'), 'layout');
  assert.equal(press('KeyS', 's'), 'narrower');
  assert.equal(press('KeyZ', 'w'), 'wider'); // French
});

test('what a reviewer decides takes Shift, wherever the letter is', () => {
  const shift = { shiftKey: true };
  assert.equal(press('KeyA', 'A', shift), 'approve');
  assert.equal(press('KeyQ', 'A', shift), 'approve'); // French
  assert.equal(press('KeyA', 'a'), '');
  assert.equal(press('KeyA', 'A'), ''); // Caps Lock
  assert.equal(press('KeyX', 'X', shift), 'send_back');
  assert.equal(press('KeyX', 'x'), '');
  assert.equal(press('KeyN', 'N', shift), 'review_next');
  assert.equal(press('KeyN', 'n', shift), 'review_next'); // Caps Lock
  assert.equal(press('KeyN', 'N'), 'next');
  assert.equal(press('KeyD', 'd'), 'download');
  assert.equal(press('Semicolon', 'm'), 'start'); // French
});

test('each key is in the list', () => {
  const shown = HELP.map(([keys]) => keys).join(' ');
  'BECNOGFSWDM'.split('').forEach((letter) => assert.match(shown, new RegExp(`(^|[ ,])${letter}([ ,]|$)`)));
  ['A', 'X', 'N'].forEach((letter) => assert.match(shown, new RegExp(`Shift \\+ ${letter}`)));
});

test('keys with Alt, and those of the viewer, are not ours', () => {
  assert.equal(press('Digit1', '1', { altKey: true }), '');
  assert.equal(press('KeyC', 'c', ctrl), '');
  for (const [code, key] of [['KeyZ', 'z'], ['ArrowUp', 'ArrowUp'], ['Escape', 'Escape'], ['Equal', '+'], ['KeyR', 'r']]) {
    assert.equal(press(code, key), '');
  }
});

test('a question mark is one wherever it is printed', () => {
  assert.equal(press('Slash', '?', { shiftKey: true }), 'help'); // US
  assert.equal(press('Minus', '?', { shiftKey: true }), 'help'); // German
  assert.equal(press('KeyM', '?', { shiftKey: true }), 'help'); // French
});
