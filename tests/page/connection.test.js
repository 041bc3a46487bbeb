'use strict';

const assert = require('node:assert');
const { createServer } = require('node:http');
const test = require('node:test');

const { NoAnswer, ask, untilAnswered } = require('../../apps/sam3d/lib/viewer/connection.js');

const FREE = 0;

/* A server on a port, which ends with the test. */
function listening(t, port, answer) {
  const server = createServer(answer);
  t.after(() => closed(server));
  return new Promise((resolve) => { server.listen(port, '127.0.0.1', () => resolve(server)); });
}

const addressOf = (server) => `http://127.0.0.1:${server.address().port}/`;
const closed = (server) => new Promise((resolve) => { server.close(resolve); server.closeAllConnections(); });

test('a refusal is an answer, and a server that is away or breaks off is none', async (t) => {
  const refusing = await listening(t, FREE, (request, response) => { response.writeHead(422); response.end('{"detail": "no"}'); });
  const { status, ok, body } = await ask(addressOf(refusing));
  assert.deepEqual([status, ok, new TextDecoder().decode(body)], [422, false, '{"detail": "no"}']);
  const address = addressOf(refusing);
  await closed(refusing);
  await assert.rejects(ask(address), NoAnswer);
  const breaking = await listening(t, FREE, (request, response) => {
    response.writeHead(200, { 'content-length': 100 });
    response.write('half', () => response.destroy());
  });
  await assert.rejects(ask(addressOf(breaking)), NoAnswer);
});

test('a server that comes back is noticed, and one that nobody waits for is not asked', async (t) => {
  const first = await listening(t, FREE, (request, response) => response.end());
  const { port } = first.address();
  await closed(first);
  let asked = 0;
  const waited = untilAnswered(`http://127.0.0.1:${port}/`, () => false, 20);
  const later = setTimeout(() => listening(t, port, (request, response) => {
    asked += 1;
    response.writeHead(503);
    response.end();
  }), 100);
  t.after(() => clearTimeout(later));
  await waited;
  assert.equal(asked, 1);
  await untilAnswered(`http://127.0.0.1:${port}/`, () => true, 20);
  assert.equal(asked, 1);
});
