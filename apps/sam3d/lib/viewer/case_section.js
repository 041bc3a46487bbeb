/* The part of our bar that says how far the open case is and who else has it, and lets reviewers judge it. */
const sam3dCaseSection = (() => {
  'use strict';

  const LOOK_MS = 10000; // the server forgets a page that it has not heard of for four times as long
  const NAME = 'sam3d.name';

  /* What others are told that this browser's user is called; empty until it is said. */
  function userName() {
    return window.localStorage.getItem(NAME) || '';
  }

  const FORMATS = { nifti: 'NIfTI', nrrd: 'NRRD (3D Slicer)', dicom_seg: 'DICOM SEG', rtstruct: 'RTSTRUCT' };

  /* `server` is its address and `client` this browser's name there; `say` shows a sentence, `open` goes to a case, and
     `showStored` puts the label that is stored on the screen. */
  function make({ server, client, say, open, showStored }) {
    const element = document.createElement('div');
    element.id = 'sam3d-case';
    element.innerHTML = `
      <div data-part="state"></div>
      <div data-part="others"></div>
      <button data-deed="approve" hidden>Approve</button>
      <button data-deed="send_back" hidden>Send back</button>
      <button data-deed="review_next" hidden>Next to review</button>
      <button data-deed="show_stored" data-needs-rest hidden>Show stored label</button>
      <select data-part="download" aria-label="Download" hidden><option value="">Download…</option></select>
      <label>Your name <input data-part="name" maxlength="60" placeholder="for other annotators"></label>`;
    const part = (name) => element.querySelector(`[data-part=${name}]`);
    const button = (deed) => element.querySelector(`[data-deed=${deed}]`);
    const section = { element, image: '', at: null, nextLook: 0 };
    part('name').value = userName();
    part('name').onchange = () => {
      window.localStorage.setItem(NAME, part('name').value.trim());
      section.look();
    };
    button('approve').onclick = () => review('approve', {});
    button('send_back').onclick = async () => {
      const comment = await askForComment();
      if (comment) {
        await review('send_back', { comment });
      }
    };
    button('review_next').onclick = goToNext;
    button('show_stored').onclick = () => showStored(downloadAddress('nrrd'));
    part('download').append(...Object.entries(FORMATS).map(([format, name]) => new Option(name, format)));
    part('download').onchange = () => {
      const format = part('download').value;
      part('download').value = '';
      part('download').blur();
      return download(format);
    };

    /* Asks now, and again when it is time. */
    section.look = async () => {
      section.nextLook = Date.now() + LOOK_MS;
      const { image } = section;
      const reply = await ask('open', {}).catch(() => null);
      if (reply && reply.ok && section.image === image) {
        show(await reply.json());
      }
    };
    section.tick = () => Date.now() < section.nextLook || section.look();
    section.follow = (image) => {
      section.image = image;
      section.nextLook = 0;
    };
    /* Said while the page goes away, which waits for no answer. */
    section.leave = () => {
      const body = new Blob([JSON.stringify({ client_id: client })], { type: 'application/json' });
      navigator.sendBeacon(address('leave'), body);
    };
    return section;

    function address(deed) {
      const url = new URL(`cases/${deed}`, server);
      url.searchParams.set('image', section.image);
      return url;
    }

    function downloadAddress(format) {
      const url = address('download');
      url.searchParams.set('format', format);
      url.searchParams.set('version', section.at.version);
      return url;
    }

    /* By hand, for the browser's own download says nothing of why there is none. */
    async function download(format) {
      const reply = await fetch(downloadAddress(format));
      if (!reply.ok) {
        say((await reply.json()).detail, 'failed');
        return;
      }
      const [, name] = /filename\*=utf-8''(.*)$/.exec(reply.headers.get('content-disposition'));
      const link = document.createElement('a');
      link.href = URL.createObjectURL(await reply.blob());
      link.download = decodeURIComponent(name);
      link.click();
      URL.revokeObjectURL(link.href);
      say(`Downloaded: ${link.download}`, 'idle');
    }

    function ask(deed, params) {
      const body = JSON.stringify({ client_id: client, client_name: userName(), ...params });
      return fetch(address(deed), { method: 'POST', headers: { 'Content-Type': 'application/json' }, body });
    }

    function show(at) {
      section.at = { ...section.at, ...at };
      part('state').textContent = sam3dCases.stateSentence(section.at, userName() || client);
      part('others').textContent = sam3dCases.othersSentence(section.at.also_open || []);
      element.dataset.state = section.at.state;
      const possible = sam3dCases.reviewsOf(section.at);
      ['approve', 'send_back'].forEach((deed) => { button(deed).hidden = !possible.includes(deed); });
      button('review_next').hidden = !section.at.may_review;
      button('show_stored').hidden = part('download').hidden = !section.at.version;
    }

    async function review(deed, params) {
      const reply = await ask(deed, { ...params, version: section.at.version });
      const told = await reply.json();
      if (reply.ok) {
        show(told);
        say(`Version ${told.version} is ${deed === 'approve' ? 'approved' : 'sent back'}`, 'idle');
      } else {
        say(told.detail, 'failed');
        await section.look();
      }
    }

    async function goToNext() {
      const reply = await fetch(new URL('cases/?state=submitted', server));
      const next = reply.ok ? sam3dCases.nextToReview(await reply.json(), section.image) : null;
      if (next) {
        open(next.id);
      } else {
        say('No other label waits for a review', 'idle');
      }
    }
  }

  /* What is to be done about a label; null if the question was closed. */
  function askForComment() {
    const dialog = document.createElement('dialog');
    dialog.id = 'sam3d-comment';
    dialog.innerHTML = `<form method="dialog">
      <label>What is to be done about this label?<br><textarea rows="4" cols="40" maxlength="2000" required></textarea></label><br>
      <button value="send">Send back</button> <button value="" formnovalidate>Cancel</button></form>`;
    dialog.onkeydown = (event) => event.stopPropagation(); // the viewer has other uses for keys
    document.body.appendChild(dialog);
    dialog.showModal();
    return new Promise((resolve) => {
      dialog.onclose = () => {
        dialog.remove();
        resolve(dialog.returnValue === 'send' ? dialog.querySelector('textarea').value.trim() : null);
      };
    });
  }

  return { make, userName };
})();
