/* How far a case is and who has it, in words; and what the one at the screen may do about it. */
const sam3dCases = (() => {
  'use strict';

  /* As in `Submitted by Anna, version 2`; `at` is what the server said of a case. */
  function stateSentence(at, name) {
    const label = `by ${at.by || 'somebody'}, version ${at.version}`;
    const said = `${at.reviewer || 'a reviewer'}: ${at.comment}`;
    switch (at.state) {
      case 'draft':
        return 'A draft, made by the model; no label yet';
      case 'in work':
        return [`In work by ${at.in_work_by === name ? 'you' : at.in_work_by}`, ...(at.comment ? [`sent back by ${said}`] : [])].join('; ');
      case 'submitted':
        return at.version ? `Submitted ${label}; nobody has reviewed it` : 'Submitted; nobody has reviewed it';
      case 'reviewed':
        return `Approved by ${at.reviewer}${at.comment ? `: ${at.comment}` : ''} (${label})`;
      case 'rejected':
        return `Sent back by ${said} (${label})`;
      default:
        return 'New: no label yet';
    }
  }

  /* As in `Emil and Dora also have this case open`; empty if nobody has. */
  function othersSentence(names) {
    const last = names.length - 1;
    const listed = last > 0 ? `${names.slice(0, last).join(', ')} and ${names[last]}` : names[0];
    return names.length ? `${listed} also ${last > 0 ? 'have' : 'has'} this case open` : '';
  }

  /* Which of `approve` and `send_back` can be done: there is a label, and nobody said the same of it already. */
  function reviewsOf(at) {
    const isThere = Boolean(at.may_review && at.version);
    return [['approve', 'reviewed'], ['send_back', 'rejected']].filter(([, state]) => isThere && at.state !== state).map(([deed]) => deed);
  }

  /* Why the label may not be judged so. */
  function whyNot(at, deed) {
    if (!at || !at.version) {
      return 'There is no label to review yet';
    }
    return at.may_review ? `The label is ${deed === 'approve' ? 'approved' : 'sent back'} already` : 'Reviewing is left to others here';
  }

  /* The case to review after this one: that whose label waits longest. */
  function nextToReview(cases, image) {
    const waiting = cases.filter(({ id, state }) => state === 'submitted' && id !== image);
    return waiting.reduce((first, each) => (!first || each.when < first.when ? each : first), null);
  }

  return { stateSentence, othersSentence, reviewsOf, nextToReview, whyNot };
})();
if (typeof module !== 'undefined') {
  module.exports = sam3dCases;
}
