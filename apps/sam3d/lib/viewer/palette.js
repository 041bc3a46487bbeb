/* The colours of labels: those of Okabe and Ito, which people with any colour vision tell apart. */
const sam3dPalette = (() => {
  'use strict';

  /* RGB; without their black, which is no colour on an image. The ones that differ most come first. */
  const COLOURS = [
    [230, 159, 0], // orange
    [86, 180, 233], // sky blue
    [0, 158, 115], // bluish green
    [240, 228, 66], // yellow
    [213, 94, 0], // vermillion
    [204, 121, 167], // reddish purple
    [0, 114, 178], // blue
  ];
  const GREY = [128, 128, 128];

  /* What gives each label that it is asked of the next colour, and the same one again; the seven come round again. No
     mask is background, so its colour is none of them. */
  function make(background) {
    const known = [];
    return (label) => {
      if (label === background) {
        return GREY;
      }
      if (!known.includes(label)) {
        known.push(label);
      }
      return COLOURS[known.indexOf(label) % COLOURS.length];
    };
  }

  return { COLOURS, make };
})();
if (typeof module !== 'undefined') {
  module.exports = sam3dPalette;
}
