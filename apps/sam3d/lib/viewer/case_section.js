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
     `startFrom` puts a mask that there is on the screen. */
  function make({ server, client, say, open, startFrom }) {
    const element = document.createElement('div');
    element.id = 'sam3d-case';
    element.innerHTML = `
      <div data-part="state"></div>
      <div data-part="others"></div>
      <button data-deed="approve" hidden>Approve</button>
      <button data-deed="send_back" hidden>Send back</button>
      <button data-deed="review_next" hidden>Next to review</button>
      <select data-part="start" data-needs-rest aria-label="Start from" hidden></select>
      <select data-part="download" aria-label="Download" hidden><option value="">Download…</option></select>
      <label>Your name <input data-part="name" maxlength="60" placeholder="for other annotators"></label>`;
    const part = (name) => element.querySelector(`[data-part=${name}]`);
    const button = (deed) => element.querySelector(`[data-deed=${deed}]`);
    const section = { element, image: '', at: null, starts: [], nextLook: 0, nextLookForStarts: 0 };
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
    // A draft may have been made since, or a SEG stored.
    part('start').onpointerenter = part('start').onfocus = () => Date.now() < section.nextLookForStarts || lookForStarts();
    part('start').onchange = () => {
      const start = section.starts[part('start').value];
      part('start').value = '';
      part('start').blur();
      return startFrom(downloadAddress('nrrd', start), start);
    };
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
      showStarts([]);
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

    function downloadAddress(format, start) {
      const url = address('download');
      Object.entries({ format, ...sam3dStarts.keyOf(start) }).forEach(([name, value]) => url.searchParams.set(name, value));
      return url;
    }

    async function lookForStarts() {
      const { image } = section;
      section.nextLookForStarts = Date.now() + LOOK_MS;
      const reply = await fetch(address('starts')).catch(() => null);
      if (reply && reply.ok && section.image === image) {
        showStarts(await reply.json());
      }
    }

    /* Nothing is changed while nothing is new: the list may be open. */
    function showStarts(starts) {
      if (JSON.stringify(starts) !== JSON.stringify(section.starts) || !starts.length) {
        section.starts = starts;
        const options = starts.map((start, number) => new Option(sam3dStarts.optionText(start), number));
        part('start').replaceChildren(new Option('Start from…', ''), ...options);
        part('start').hidden = !starts.length;
      }
    }

    /* By hand, for the browser's own download says nothing of why there is none. */
    async function download(format) {
      const reply = await fetch(downloadAddress(format, { tag: 'final', version: section.at.version }));
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
      const { version, state } = section.at || {};
      if (version !== at.version || state !== at.state) {
        lookForStarts();
      }
      section.at = { ...section.at, ...at };
      part('state').textContent = sam3dCases.stateSentence(section.at, userName() || client);
      part('others').textContent = sam3dCases.othersSentence(section.at.also_open || []);
      element.dataset.state = section.at.state;
      const possible = sam3dCases.reviewsOf(section.at);
      ['approve', 'send_back'].forEach((deed) => { button(deed).hidden = !possible.includes(deed); });
      button('review_next').hidden = !section.at.may_review;
      part('download').hidden = !section.at.version;
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
