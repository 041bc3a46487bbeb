'use strict';

const assert = require('node:assert');
const test = require('node:test');

const { sentence } = require('../../apps/sam3d/lib/viewer/scores.js');

const going = { is_running: true, message: 'scoring: 12 of 40 images by v1 on 2 places, 90 an hour, about 19 min left', unscored: [] };

test('scores that are being made are told, and those that are complete are not', () => {
  assert.equal(sentence(going), `Next Sample: ${going.message}`);
  assert.equal(sentence({ ...going, is_running: false }), '');
  assert.equal(sentence(undefined), '');
});

test('what cannot be scored is named, the first three of them', () => {
  const done = { is_running: false, message: 'scored: 38 of 40 images by v1, 2 cannot be scored', unscored: ['a', 'b'] };
  assert.equal(sentence(done), `Next Sample: ${done.message} (a, b)`);
  assert.ok(sentence({ ...done, unscored: ['a', 'b', 'c', 'd'] }).endsWith('(a, b, c, …)'));
});
