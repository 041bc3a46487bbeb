/* Whether the server can be reached at all: what failed for lack of an answer is told from what was refused, and waited
   for. */
const sam3dConnection = (() => {
  'use strict';

  const ASK_MS = 2000; // from one question to the next
  const ANSWER_MS = 5000; // an answer that takes longer is none

  /* The server gave no answer, not even a refusal. */
  class NoAnswer extends Error {
    constructor(cause) {
      super('the server does not answer', { cause });
    }
  }

  /* A reply with its whole body, as bytes; NoAnswer where there is none, or it broke off. */
  async function ask(address, options) {
    try {
      const reply = await fetch(address, options);
      return { status: reply.status, ok: reply.ok, headers: reply.headers, body: await reply.arrayBuffer() };
    } catch (error) {
      throw new NoAnswer(error);
    }
  }

  /* Resolves when any answer comes from an address that costs the server nothing, or when `isGivenUp()`. */
  async function untilAnswered(address, isGivenUp, askMs = ASK_MS) {
    for (;;) {
      await new Promise((resolve) => { setTimeout(resolve, askMs); });
      if (isGivenUp()) {
        return;
      }
      try {
        await ask(address, { cache: 'no-store', signal: AbortSignal.timeout(ANSWER_MS) });
        return;
      } catch (error) {
        if (!(error instanceof NoAnswer)) {
          throw error;
        }
      }
    }
  }

  return { NoAnswer, ask, untilAnswered };
})();
if (typeof module !== 'undefined') {
  module.exports = sam3dConnection;
}
