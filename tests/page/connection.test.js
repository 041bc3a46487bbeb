'use strict';

const assert = require('node:assert');
const { createServer } = require('node:http');
const test = require('node:test');

const { NoAnswer, ask, untilAnswered } = require('../../apps/sam3d/lib/viewer/connection.js');

const FREE = 0;

/* A server on a port, and what ends it. */
function listening(port, answer) {
  const server = createServer(answer);
  return new Promise((resolve) => { server.listen(port, '127.0.0.1', () => resolve(server)); });
}

const addressOf = (server) => `http://127.0.0.1:${server.address().port}/`;
const closed = (server) => new Promise((resolve) => { server.close(resolve); server.closeAllConnections(); });

test('a refusal is an answer, and a server that is away or breaks off is none', async () => {
  const refusing = await listening(FREE, (request, response) => { response.writeHead(422); response.end('{"detail": "no"}'); });
  const { status, ok, body } = await ask(addressOf(refusing));
  assert.deepEqual([status, ok, new TextDecoder().decode(body)], [422, false, '{"detail": "no"}']);
  const address = addressOf(refusing);
  await closed(refusing);
  await assert.rejects(ask(address), NoAnswer);
  const breaking = await listening(FREE, (request, response) => {
    response.writeHead(200, { 'content-length': 100 });
    response.write('half', () => response.destroy());
  });
  await assert.rejects(ask(addressOf(breaking)), NoAnswer);
  await closed(breaking);
});

test('a server that comes back is noticed, and one that nobody waits for is not asked', async () => {
  const first = await listening(FREE, (request, response) => response.end());
  const { port } = first.address();
  await closed(first);
  let asked = 0;
  const waited = untilAnswered(`http://127.0.0.1:${port}/`, () => false, 20);
  const second = await new Promise((resolve) => {
    setTimeout(() => resolve(listening(port, (request, response) => { asked += 1; response.writeHead(503); response.end(); })), 100);
  });
  await waited;
  assert.equal(asked, 1);
  await untilAnswered(`http://127.0.0.1:${port}/`, () => true, 20);
  assert.equal(asked, 1);
  await closed(second);
});
