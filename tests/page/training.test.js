'use strict';

const assert = require('node:assert');
const test = require('node:test');

const { current, sentence } = require('../../apps/sam3d/lib/viewer/training.js');

const ended = { served: 'v1', best_metric: 0.714, state: 'done', message: 'v1 published', epoch: 10, total_epochs: 10 };

test('a run that has said nothing yet begins, and one that has ended does not', () => {
  assert.equal(sentence(current(ended, true, false)), 'Model: v1, Dice 0.71; training begins');
  assert.equal(sentence(current(ended, true, true)), 'Model: v1, Dice 0.71; v1 published');
  assert.equal(sentence(current(ended, false, false)), 'Model: v1, Dice 0.71; v1 published');
  assert.equal(sentence(current(undefined, true, false)), '');
});

test('a run that goes on tells its epoch', () => {
  const going = { ...ended, best_metric: 0, state: 'running', message: 'training', epoch: 2 };
  assert.equal(sentence(current(going, true, true)), 'Model: v1; training, epoch 2 of 10');
});
