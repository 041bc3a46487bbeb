/* What the server answers to a request for a mask, and what a labelmap holds: bytes in, values out. */
const sam3dReplies = (() => {
  'use strict';

  const LF = 10;
  const CR = 13;

  /* The params and the mask's file of a form that holds both; views, no copies: a mask may have a hundred megabytes. */
  function readForm(buffer, contentType) {
    const bytes = new Uint8Array(buffer);
    const [, boundary] = /boundary="?([^";]+)/.exec(contentType) || [];
    if (!boundary) {
      throw new Error('the answer is not a form of params and a mask');
    }
    const params = partAt(bytes, 0, boundary);
    const mask = partAt(bytes, params.end, boundary);
    return { params: JSON.parse(new TextDecoder().decode(params.body)), mask: mask.body };
  }

  /* The first part that begins at `start` or later. The last one ends where the form does. */
  function partAt(bytes, start, boundary) {
    const body = endOf(bytes, start, [CR, LF, CR, LF]);
    const tail = bytes.length - `\r\n--${boundary}--\r\n`.length;
    const head = new TextDecoder().decode(bytes.subarray(start, body));
    const isFile = /filename=/.test(head);
    const end = isFile ? tail : endOf(bytes, body, [...`\r\n--${boundary}`].map((sign) => sign.charCodeAt(0)), true);
    return { body: bytes.subarray(body, end), end };
  }

  /* Where the first `signs` from `start` on end, or begin. */
  function endOf(bytes, start, signs, isBegin = false) {
    for (let at = start; at + signs.length <= bytes.length; at += 1) {
      if (signs.every((sign, offset) => bytes[at + offset] === sign)) {
        return isBegin ? at : at + signs.length;
      }
    }
    throw new Error('the answer ends too soon');
  }

  /* The voxels of an NRRD of raw bytes. */
  function readMask(bytes) {
    const voxels = endOf(bytes, 0, [LF, LF]);
    const header = new TextDecoder().decode(bytes.subarray(0, voxels));
    if (!/^type: *(unsigned char|uint8)/m.test(header) || !/^encoding: *raw$/m.test(header)) {
      throw new Error('the mask is not an NRRD of bytes');
    }
    return bytes.subarray(voxels);
  }

  /* The voxels of a segmentation as the server packs one (NRRD), those of its layers side by side, and the name, value and
     layer of each structure. */
  async function readSegmentation(bytes) {
    const start = endOf(bytes, 0, [LF, LF]);
    const header = new TextDecoder().decode(bytes.subarray(0, start));
    if (!/^encoding: *gzip$/m.test(header)) {
      throw new Error('the label is not a packed NRRD');
    }
    const unpacked = new Blob([bytes.subarray(start)]).stream().pipeThrough(new DecompressionStream('gzip'));
    const voxels = new Uint8Array(await new Response(unpacked).arrayBuffer());
    const told = (number, key) => Number(new RegExp(`^Segment${number}_${key}:=(\\d+)$`, 'm').exec(header)[1]);
    const structures = [...header.matchAll(/^Segment(\d+)_Name:=(.*)$/gm)].map(([, number, name]) => (
      { name, value: told(number, 'LabelValue'), layer: told(number, 'Layer') }));
    return { voxels, nLayers: Math.max(1, ...structures.map(({ layer }) => layer + 1)), structures };
  }

  /* How many voxels each value of a labelmap has. */
  function count(labelmap) {
    const counts = new Uint32Array(256);
    for (let i = 0; i < labelmap.length; i += 1) {
      counts[labelmap[i]] += 1;
    }
    return counts;
  }

  /* As in `1.25 ml, 1250 voxels, 14 mm across`; without the diameter where it is not known. */
  function sizeSentence(voxels, voxelMm3, diameterMm) {
    const ml = (voxels * voxelMm3) / 1000;
    const volume = `${ml.toFixed(ml < 10 ? 2 : 0)} ml, ${voxels} voxel${voxels === 1 ? '' : 's'}`;
    return diameterMm === undefined ? volume : `${volume}, ${diameterMm.toFixed(diameterMm < 10 ? 1 : 0)} mm across`;
  }

  /* How long it took, what was found, which version of the model found it, and what the server noted. */
  function answerSentence({ label_names: found, model_version: version, notes }, model, tookMs) {
    const what = Object.keys(found || {}).join(', ') || 'no voxel';
    return [`Answered in ${(tookMs / 1000).toFixed(1)} s: ${what} (${model} ${version})`, ...(notes || [])].join('. ');
  }

  /* What the server said about a request that failed: axios keeps it as bytes, text or JSON, as it was asked for. */
  function sentenceOf(failed) {
    if (!failed.response) {
      return `The server does not answer: ${failed.message || 'no connection'}`;
    }
    const { data, status } = failed.response;
    return detailOf(data instanceof ArrayBuffer ? new TextDecoder().decode(data) : data) || `The server answered ${status}`;
  }

  function detailOf(body) {
    try {
      const { detail } = typeof body === 'string' ? JSON.parse(body) : body;
      return typeof detail === 'string' ? detail : JSON.stringify(detail);
    } catch (error) {
      return typeof body === 'string' ? body.slice(0, 300) : '';
    }
  }

  return { readForm, readMask, readSegmentation, count, sizeSentence, answerSentence, sentenceOf, detailOf };
})();
if (typeof module !== 'undefined') {
  module.exports = sam3dReplies;
}
