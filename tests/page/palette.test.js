'use strict';

const assert = require('node:assert');
const test = require('node:test');

const { COLOURS, make } = require('../../apps/sam3d/lib/viewer/palette.js');

test('each label has a colour of its own, and the same one whenever it is asked for', () => {
  const colourOf = make('background');
  const labels = ['a', 'b', 'c', 'd', 'e', 'f', 'g'];
  const background = colourOf('background');
  const colours = labels.map((label) => {
    colourOf(label);
    return colourOf(label);
  });
  assert.deepEqual(colours, COLOURS);
  assert.deepEqual(labels.map(colourOf), colours);
  assert.ok(!COLOURS.includes(background));
  assert.deepEqual(colourOf('h'), COLOURS[0]);
});

/* As people without one kind of cones see an RGB colour (Viénot, Brettel and Mollon 1999), linear. */
const SEEN = {
  anybody: [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
  'without red cones': [[0.1124, 0.8876, 0], [0.1124, 0.8876, 0], [0.004, -0.004, 1]],
  'without green cones': [[0.2928, 0.7072, 0], [0.2928, 0.7072, 0], [-0.0223, 0.0223, 1]],
};

test('no two colours look alike, whatever cones are lacking', () => {
  for (const [who, rows] of Object.entries(SEEN)) {
    const seen = COLOURS.map((colour) => rows.map((row) => row.reduce((sum, part, n) => sum + part * (colour[n] / 255) ** 2.2, 0)));
    seen.forEach((one, n) => seen.slice(n + 1).forEach((other) => {
      const apart = Math.hypot(...one.map((part, axis) => part - other[axis]));
      assert.ok(apart > 0.1, `${who}: ${COLOURS[n]} is like another one (${apart.toFixed(2)})`);
    }));
  }
});
