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
  const TO_REVIEW = '. Shift + A approves it, Shift + X sends it back';

  /* `server` is its address and `client` this browser's name there; `say` shows a sentence, `open` goes to a case, and
     `startFrom` puts a mask that there is on the screen. */
  function make({ server, client, say, open, startFrom }) {
    const element = document.createElement('div');
    element.id = 'sam3d-case';
    element.innerHTML = `
      <div data-part="state"></div>
      <div data-part="others"></div>
      <button data-deed="approve" title="Shift + A" hidden>Approve</button>
      <button data-deed="send_back" title="Shift + X" hidden>Send back</button>
      <button data-deed="review_next" title="Shift + N" hidden>Next to review</button>
      <button data-deed="start" title="M" data-needs-rest>Start from…</button>
      <button data-deed="download" title="D" hidden>Download…</button>
      <label>Your name <input data-part="name" maxlength="60" placeholder="for other annotators"></label>`;
    const part = (name) => element.querySelector(`[data-part=${name}]`);
    const button = (deed) => element.querySelector(`[data-deed=${deed}]`);
    const section = { element, image: '', at: null, nextLook: 0 };
    part('name').value = userName();
    part('name').onchange = () => {
      window.localStorage.setItem(NAME, part('name').value.trim());
      section.look();
    };
    const deeds = { approve, send_back: sendBack, review_next: goToNext, start: chooseStart, download: chooseDownload };
    Object.entries(deeds).forEach(([deed, does]) => { button(deed).onclick = does; });

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
    /* What a key asks for, whether or not it can be done. */
    section.act = (deed) => deeds[deed]();
    /* Shows the label that is to be reviewed. */
    section.showNewest = async () => {
      const newest = (await starts()).find(({ kind }) => kind === 'label');
      if (newest) {
        await startFrom(downloadAddress('nrrd', newest), newest, TO_REVIEW);
      }
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

    /* The newest first; none while the server does not answer. */
    async function starts() {
      const reply = await fetch(address('starts')).catch(() => null);
      return reply && reply.ok ? reply.json() : [];
    }

    async function chooseStart() {
      const found = await starts();
      if (!found.length) {
        say('There is nothing to start from yet: no version, no draft, no SEG', 'failed');
        return;
      }
      const start = found[await sam3dChoiceDialog.ask('Start from', found.map((each) => sam3dStarts.optionText(each)))];
      if (start) {
        await startFrom(downloadAddress('nrrd', start), start);
      }
    }

    async function chooseDownload() {
      if (!section.at || !section.at.version) {
        say('There is no label to download yet: submit one first', 'failed');
        return;
      }
      const format = Object.keys(FORMATS)[await sam3dChoiceDialog.ask('Download the label as', Object.values(FORMATS))];
      if (format) {
        await download(format);
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
      section.at = { ...section.at, ...at };
      part('state').textContent = sam3dCases.stateSentence(section.at, userName() || client);
      part('others').textContent = sam3dCases.othersSentence(section.at.also_open || []);
      element.dataset.state = section.at.state;
      const possible = sam3dCases.reviewsOf(section.at);
      ['approve', 'send_back'].forEach((deed) => { button(deed).hidden = !possible.includes(deed); });
      button('review_next').hidden = !section.at.may_review;
      button('download').hidden = !section.at.version;
    }

    function approve() {
      return mayDo('approve') && review('approve', {});
    }

    async function sendBack() {
      const comment = mayDo('send_back') && await askForComment();
      if (comment) {
        await review('send_back', { comment });
      }
    }

    function mayDo(deed) {
      const isPossible = Boolean(section.at) && sam3dCases.reviewsOf(section.at).includes(deed);
      if (!isPossible) {
        say(sam3dCases.whyNot(section.at, deed), 'failed');
      }
      return isPossible;
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
    dialog.className = 'sam3d-dialog';
    dialog.innerHTML = `<form method="dialog">
      <label>What is to be done about this label?<br><textarea rows="4" cols="40" maxlength="2000" required></textarea></label><br>
      <button value="send">Send back</button> <button value="" formnovalidate>Cancel</button></form>`;
    dialog.onkeydown = (event) => event.stopPropagation(); // the viewer has other uses for keys
    document.body.appendChild(dialog);
    dialog.showModal();
    return new Promise((resolve) => {
      dialog.onclose = () => {
        dialog.remove();
        document.activeElement.blur(); // a button that was pressed by mouse got the keyboard back
        resolve(dialog.returnValue === 'send' ? dialog.querySelector('textarea').value.trim() : null);
      };
    });
  }

  return { make, userName };
})();
