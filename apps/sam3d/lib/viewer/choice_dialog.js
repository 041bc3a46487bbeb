/* A question with numbered answers: one is chosen by its digit or by the mouse, and none with Escape. */
const sam3dChoiceDialog = (() => {
  'use strict';

  const N_DIGITS = 9; // answers beyond have no digit, and are reached by the Tab key

  /* Resolves to the place of the answer in `answers`; -1 for none. */
  function ask(question, answers) {
    const dialog = document.createElement('dialog');
    dialog.id = 'sam3d-choice';
    dialog.className = 'sam3d-dialog';
    const title = document.createElement('div');
    title.textContent = question;
    const buttons = answers.map((answer, place) => {
      const button = document.createElement('button');
      button.textContent = place < N_DIGITS ? `${place + 1}  ${answer}` : answer;
      button.onclick = () => dialog.close(String(place));
      return button;
    });
    dialog.append(title, ...buttons);
    dialog.onkeydown = (event) => {
      event.stopPropagation(); // the viewer has other uses for keys
      const [what, number] = sam3dKeys.actionOf(event).split(' ');
      if (what === 'label' && buttons[number - 1]) {
        event.preventDefault();
        buttons[number - 1].click();
      }
    };
    document.body.appendChild(dialog);
    dialog.showModal();
    return new Promise((resolve) => {
      dialog.onclose = () => {
        dialog.remove();
        document.activeElement.blur(); // a button that was pressed by mouse got the keyboard back
        resolve(dialog.returnValue === '' ? -1 : Number(dialog.returnValue));
      };
    });
  }

  return { ask };
})();
