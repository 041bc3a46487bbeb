'use strict';

const assert = require('node:assert');
const test = require('node:test');

const { nextToReview, othersSentence, reviewsOf, stateSentence, whyNot } = require('../../apps/sam3d/lib/viewer/cases.js');

const label = { version: 2, by: 'Anna', reviewer: '', comment: '', in_work_by: '' };
const sentBack = { ...label, reviewer: 'Emil', comment: 'too small' };

test('each state has its sentence', () => {
  const said = (at) => stateSentence(at, 'Anna');
  assert.equal(said({ state: 'new' }), 'New: no label yet');
  assert.equal(said({ state: 'draft' }), 'A draft, made by the model; no label yet');
  assert.equal(said({ state: 'in work', in_work_by: 'Emil' }), 'In work by Emil');
  assert.equal(said({ ...sentBack, state: 'in work', in_work_by: 'Anna' }), 'In work by you; sent back by Emil: too small');
  assert.equal(said({ ...label, state: 'submitted' }), 'Submitted by Anna, version 2; nobody has reviewed it');
  assert.equal(said({ state: 'submitted', version: 0 }), 'Submitted; nobody has reviewed it');
  assert.equal(said({ ...label, state: 'reviewed', reviewer: 'Emil' }), 'Approved by Emil (by Anna, version 2)');
  assert.equal(said({ ...sentBack, state: 'rejected' }), 'Sent back by Emil: too small (by Anna, version 2)');
});

test('others are named', () => {
  assert.equal(othersSentence([]), '');
  assert.equal(othersSentence(['Emil']), 'Emil also has this case open');
  assert.equal(othersSentence(['Emil', 'Dora', 'Jan']), 'Emil, Dora and Jan also have this case open');
});

test('who may review may say what was not said yet of a label that there is', () => {
  const at = { ...label, may_review: true };
  assert.deepEqual(reviewsOf({ ...at, state: 'submitted' }), ['approve', 'send_back']);
  assert.deepEqual(reviewsOf({ ...at, state: 'reviewed' }), ['send_back']);
  assert.deepEqual(reviewsOf({ ...at, state: 'rejected' }), ['approve']);
  assert.deepEqual(reviewsOf({ ...at, state: 'new', version: 0 }), []);
  assert.deepEqual(reviewsOf({ ...at, state: 'submitted', may_review: false }), []);
});

test('why a label may not be judged is said', () => {
  const at = { ...label, may_review: true };
  assert.equal(whyNot(null, 'approve'), 'There is no label to review yet');
  assert.equal(whyNot({ ...at, version: 0 }, 'approve'), 'There is no label to review yet');
  assert.equal(whyNot(at, 'approve'), 'The label is approved already');
  assert.equal(whyNot(at, 'send_back'), 'The label is sent back already');
  assert.equal(whyNot({ ...at, may_review: false }, 'approve'), 'Reviewing is left to others here');
});

test('the label that waits longest is reviewed next, but for the one that is open', () => {
  const cases = [
    { id: 'a', state: 'submitted', when: '2026-01-03' },
    { id: 'b', state: 'submitted', when: '2026-01-02' },
    { id: 'c', state: 'reviewed', when: '2026-01-01' },
    { id: 'd', state: 'submitted', when: '2026-01-01' },
  ];
  assert.equal(nextToReview(cases, 'd').id, 'b');
  assert.equal(nextToReview(cases.slice(2, 3), 'd'), null);
});
