'use strict';

const assert = require('node:assert');
const test = require('node:test');
const { gzipSync } = require('node:zlib');

const {
  answerSentence, count, detailOf, readForm, readMask, readSegmentation, sentenceOf, sizeSentence,
} = require('../../apps/sam3d/lib/viewer/replies.js');

const HEADER = 'NRRD0004\ntype: unsigned char\nencoding: raw\n\n';
const type = 'multipart/form-data; boundary=0f1e';

/* As lib/serving/replies.py writes it. The mask holds what could be taken for the end of a part. */
function form(mask) {
  const head = '--0f1e\r\nContent-Disposition: form-data; name="params"\r\nContent-Type: application/json\r\n\r\n{"notes":["über"]}'
    + '\r\n--0f1e\r\nContent-Disposition: form-data; name="image"; filename="m.nrrd"\r\nContent-Type: application/octet-stream\r\n\r\n';
  const whole = Buffer.concat([Buffer.from(head), mask, Buffer.from('\r\n--0f1e--\r\n')]);
  return whole.buffer.slice(whole.byteOffset, whole.byteOffset + whole.length);
}

test('a form gives its params and its mask to the byte', () => {
  const voxels = Buffer.from([0, 1, 13, 10, 45, 45, 48, 102, 49, 101, 13, 10, 13, 10, 2]);
  const { params, mask } = readForm(form(Buffer.concat([Buffer.from(HEADER), voxels])), type);
  assert.deepEqual(params, { notes: ['über'] });
  assert.deepEqual([...readMask(mask)], [...voxels]);
});

test('what is no form and no mask of bytes is said', () => {
  assert.throws(() => readForm(new ArrayBuffer(4), 'text/html'), /not a form/);
  assert.throws(() => readForm(new ArrayBuffer(4), type), /ends too soon/);
  assert.throws(() => readMask(Buffer.from(HEADER.replace('unsigned char', 'float'))), /not an NRRD of bytes/);
});

test('a stored label gives its voxels, and the names, values and layers of its structures', async () => {
  const keys = 'Segment0_Layer:=0\nSegment0_Name:=Gefäß\nSegment0_LabelValue:=2\nSegment1_LabelValue:=1\nSegment1_Layer:=1\nSegment1_Name:=liver\n';
  const head = Buffer.from(HEADER.replace('raw\n', `gzip\n${keys}`));
  const { voxels, nLayers, structures } = await readSegmentation(Buffer.concat([head, gzipSync(Buffer.from([0, 2, 10, 10]))]));
  assert.deepEqual([...voxels], [0, 2, 10, 10]);
  assert.deepEqual([nLayers, structures], [2, [{ name: 'Gefäß', value: 2, layer: 0 }, { name: 'liver', value: 1, layer: 1 }]]);
  await assert.rejects(readSegmentation(Buffer.from(HEADER)), /not a packed NRRD/);
});

test('voxels are counted and told in millilitres', () => {
  assert.deepEqual([...count(Uint8Array.of(0, 2, 2, 255))].flatMap((n, value) => (n ? [[value, n]] : [])), [[0, 1], [2, 2], [255, 1]]);
  assert.equal(sizeSentence(1, 4, undefined), '0.00 ml, 1 voxel');
  assert.equal(sizeSentence(500, 8, 9.96), '4.00 ml, 500 voxels, 10.0 mm across');
  assert.equal(sizeSentence(2000, 8, 31.4), '16 ml, 2000 voxels, 31 mm across');
});

test('an answer says how long it took, what it found and which version of the model gave it', () => {
  const reply = { label_names: { lesion: 1, liver: 2 }, model_version: 'v3', notes: ['two clicks are the same'] };
  assert.equal(answerSentence(reply, 'sam3d', 449), 'Answered in 0.4 s: lesion, liver (sam3d v3). two clicks are the same');
  assert.equal(answerSentence({ model_version: 'base' }, 'sam3d', 1250), 'Answered in 1.3 s: no voxel (sam3d base)');
});

test('a failure is told in the words of the server, in whatever form they came', () => {
  const bytes = new TextEncoder().encode('{"detail": "send fewer"}').buffer;
  assert.equal(sentenceOf({ response: { data: bytes, status: 422 } }), 'send fewer');
  assert.equal(sentenceOf({ response: { data: { detail: ['a'] }, status: 422 } }), '["a"]');
  assert.equal(sentenceOf({ response: { data: '', status: 500 } }), 'The server answered 500');
  assert.equal(sentenceOf({ message: 'Network Error' }), 'The server does not answer: Network Error');
  assert.equal(detailOf('<html>no'), '<html>no');
});
