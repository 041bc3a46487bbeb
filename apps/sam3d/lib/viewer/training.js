/* How training goes and went, in words. */
const sam3dTraining = (() => {
  'use strict';

  /* The figures to show: a run is under way for half a minute before it says anything, and until then they are of the
     one before. `isOn` is whether a run goes on, and `isHeard` whether it has said something of its own. */
  function current(figures, isOn, isHeard) {
    return figures && isOn && !isHeard ? { ...figures, message: 'training begins', epoch: 0 } : figures;
  }

  /* As in `Model: v1, Dice 0.71; measuring v2, epoch 2 of 10`. */
  function sentence(figures) {
    if (!figures) {
      return '';
    }
    const score = figures.best_metric ? `, Dice ${figures.best_metric.toFixed(2)}` : '';
    const epoch = figures.state === 'running' && figures.epoch ? `, epoch ${figures.epoch} of ${figures.total_epochs}` : '';
    return `Model: ${figures.served}${score}; ${figures.message || ''}${epoch}`;
  }

  return { current, sentence };
})();
if (typeof module !== 'undefined') {
  module.exports = sam3dTraining;
}
