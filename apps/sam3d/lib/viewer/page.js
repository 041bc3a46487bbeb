/* Mends the OHIF 3.10.0-beta.5 that ships with MONAI Label 0.8.5, and adds what annotating needs. It is appended to
   OHIF's configuration (routes.py), so it runs before the viewer. No file of the viewer is changed: the script waits for
   the MONAI Label panel, a React component, and puts methods of its own in the place of those that fail. Each says which
   fault it mends, and can go when a release mends it.

   Terms: a *segment* is a value in the viewer's labelmap, a *value* one in a mask of the server's; names join the two. */
(() => {
  'use strict';

  const PROBE = 'ProbeMONAILabel'; // the tool whose annotations are the clicks
  const SEGMENTATION = '1'; // the id of the panel's only labelmap
  const TOOL_GROUPS = ['default', 'mpr'];
  const BRUSHES = { Click: PROBE, Brush: 'CircularBrush', Eraser: 'CircularEraser', Ball: 'SphereBrush' };
  const LOOK_MS = 250; // how often to look for a new panel
  const TRAINING_MS = 2000; // how often to ask about a running training
  const IDLE_MS = 10000; // and about one that somebody else may have started
  const ERROR_SHOWN_MS = 6000; // the bar shows it until the next thing is said
  const UNSHOWN = 'sam3d-unshown'; // instead of the number of a notice
  const SERVER = window.location.origin + '/';

  // ------------------------------------------------------------------ the page, whatever it shows

  /* OHIF takes http://<host>:8000/ for the server on whatever port the page came from, keeps the last address in a
     cookie that all ports of a host share, and goes blank on a malformed one. */
  document.cookie = `MONAILABEL_SERVER_URL=${encodeURIComponent(SERVER)};path=/ohif`;

  /* The viewer's figures are white on white; and a panel longer than the window has no scroll bar, but the focus on what
     is below moves the whole page, images and all, with no way back. */
  const style = document.createElement('style');
  style.textContent = `
    .monaiLabelPanel { position: relative; overflow-y: auto; scrollbar-width: thin; }
    .monaiLabelPanel .w3-container { color: #000; }
    #sam3d-bar { position: sticky; top: 0; z-index: 1; background: #000; margin: 8px 4px; padding: 6px; border: 1px solid #3a3f99; border-radius: 4px; color: #fff; font-size: 13px; }
    #sam3d-bar button { margin: 2px; padding: 3px 8px; border: 1px solid #5acce6; border-radius: 4px; }
    #sam3d-bar button:disabled { opacity: .4; }
    #sam3d-bar label { display: block; margin: 2px; }
    #sam3d-bar button[aria-pressed=true] { background: #348cfd; }
    #sam3d-bar [role=status] { min-height: 2.6em; margin-top: 4px; overflow-wrap: anywhere; }
    #sam3d-bar[data-state=failed] [role=status] { color: #ff9a9a; }
    #sam3d-training { color: #a0a8ff; overflow-wrap: anywhere; }`;
  document.head.appendChild(style);

  /* Who annotates, so that no two are given the same case: a name of this browser's, kept from page to page. */
  const CLIENT = window.localStorage.getItem('sam3d.client') || `ohif-${Math.random().toString(36).slice(2)}`;
  window.localStorage.setItem('sam3d.client', CLIENT);

  let session = null; // what belongs to the panel on the screen; see begin()

  window.setInterval(() => {
    const element = document.querySelector('.monaiLabelPanel');
    if (element && (!session || session.element !== element)) {
      session = begin(element);
    } else if (!element) {
      session = null;
    }
    if (session) {
      tick(session);
    }
  }, LOOK_MS);

  window.addEventListener('beforeunload', (event) => {
    if (session && session.isUnsaved) {
      event.preventDefault();
      event.returnValue = ''; // Chromium before 119 asks only for this
    }
  });

  /* Inside the viewer there are two ways out of a case that load no page: its back button, and the browser's. Both are
     heard here before the viewer hears them. */
  const UNSAVED = 'This case has changes that were not submitted. Leave it without them?';
  document.addEventListener('click', (event) => {
    if (event.target.closest('[data-cy=return-to-work-list]') && !mayLeave()) {
      event.stopPropagation();
    }
  }, true);
  let isReturning = false; // the browser went back, and is sent forward again
  window.addEventListener('popstate', (event) => {
    if (isReturning) {
      isReturning = false;
      event.stopImmediatePropagation();
    } else if (!mayLeave()) {
      isReturning = true;
      event.stopImmediatePropagation();
      window.history.forward();
    }
  });

  function mayLeave() {
    if (session && session.isUnsaved && !window.confirm(UNSAVED)) {
      return false;
    }
    if (session) {
      session.isUnsaved = false;
    }
    return true;
  }

  // ------------------------------------------------------------------ taking over a panel

  function begin(element) {
    const panel = panelOf(element);
    if (!panel) {
      console.error('sam3d: this is not the MONAI Label panel that the page script knows');
      return { element, panel: null };
    }
    const opened = {
      element,
      panel,
      isConnecting: false,
      series: '',
      tool: 'Click',
      bar: null,
      isRunning: false,
      runAgain: false, // a click came while the server was busy with the one before
      isUnsaved: false,
      changes: 0, // of the labelmap, so far
      failure: '', // the server's sentence about the last request that failed
      clicks: {}, // of the last request: label to voxel indices
      asked: new Set(), // labels whose clicks the mask on the screen answers
      cleared: null, // the label that was chosen when all clicks were taken away
      under: null, // segment below each voxel that a result took from another label
      nextLook: 0,
      isEndUnseen: true, // the bar does not show yet how training ended, or that none is on
    };
    adoptPanel(opened);
    return opened;
  }

  function panelOf(element) {
    const key = Object.keys(element).find((name) => name.startsWith('__reactFiber$'));
    for (let fiber = key && element[key]; fiber; fiber = fiber.return) {
      if (fiber.stateNode && fiber.stateNode.updateView && fiber.stateNode.onInfo) {
        return fiber.stateNode;
      }
    }
    return null;
  }

  function adoptPanel(of) {
    const { panel } = of;
    const stockClient = panel.client;
    const stockOptions = panel.onOptionsConfig;
    panel.client = () => speakingClient(of, stockClient());
    /* Clicks are written into the options that the user chose, and stay there after the user removed them. */
    panel.onOptionsConfig = () => structuredClone(stockOptions());
    panel.updateView = async (response, model, labels) => {
      try {
        paintResult(of, response, model, labels);
      } catch (error) {
        console.error(error);
        of.failure = `The mask cannot be shown: ${error.message}`;
        say(of, of.failure, 'failed');
      }
    };
    keepClickLists();
    panel.forceUpdate();
  }

  function tick(of) {
    if (!of.panel) {
      return;
    }
    if (!of.panel.state.isDataReady) {
      connect(of);
    } else if (!of.bar && of.panel.actions.pointprompts.current && labelmap()) {
      adoptTabs(of);
      of.bar = makeBar(of);
      of.nextLook = 0;
      listen();
    } else if (of.bar && Date.now() > of.nextLook && !document.hidden) {
      of.nextLook = Infinity; // until this look has ended
      lookAtTraining(of).catch(() => false).then((isEager) => {
        of.nextLook = Date.now() + (isEager ? TRAINING_MS : IDLE_MS);
      });
    }
  }

  /* The panel waits for a button to be pressed before it asks the server for models and labels. */
  function connect(of) {
    if (of.isConnecting || Date.now() < of.nextLook || !isVolumeShown()) {
      return;
    }
    of.isConnecting = true;
    // The labelmap belongs to this series, whichever is on the screen later.
    of.series = of.panel.getActiveViewportInfo().displaySet.SeriesInstanceUID;
    of.panel.onInfo(SERVER).catch(console.error).then(() => {
      of.isConnecting = false;
      of.nextLook = of.panel.state.isDataReady ? 0 : Date.now() + IDLE_MS;
    });
  }

  function isVolumeShown() {
    const { cornerstone, services } = window;
    if (!cornerstone || !services) {
      return false;
    }
    const { viewports, activeViewportId } = services.viewportGridService.getState();
    const active = viewports.get(activeViewportId);
    const isAssigned = Boolean(active && active.displaySetInstanceUIDs && active.displaySetInstanceUIDs.length);
    return isAssigned && cornerstone.cache.getVolumes().some((volume) => volume.loadStatus && volume.loadStatus.loaded);
  }

  function adoptTabs(of) {
    const { pointprompts, activelearning, segmentation, classprompts } = of.panel.actions;
    for (const tab of [pointprompts, activelearning, segmentation, classprompts]) {
      if (tab.current) {
        tab.current.notification = speakingNotifications(of, tab.current.notification);
      }
    }
    adoptPoints(of, pointprompts.current);
    adoptLearning(activelearning.current);
    const automatic = segmentation.current;
    const stockSegmentation = automatic.onSegmentation;
    automatic.onSegmentation = () => run(of, stockSegmentation);
    automatic.forceUpdate();
  }

  function adoptPoints(of, points) {
    const stockRun = points.onRunInference;
    const stockClear = points.clearAllPoints;
    const stockChange = points.onChangeLabel;
    points.onRunInference = async () => {
      if (points.state.currentLabel) {
        await run(of, stockRun);
      } else {
        say(of, 'Choose a label first, then click on it in the image', 'failed');
      }
    };
    points.clearAllPoints = () => {
      // What is on the screen is finished work then, unless the label that is chosen runs without a click.
      of.asked = new Set();
      of.cleared = points.state.currentLabel;
      stockClear();
    };
    points.onChangeLabel = (name) => {
      stockChange(name);
      chooseSegment(of);
    };
    points.forceUpdate();
  }

  /* The drop-down of strategies has a handler that does not exist: whatever is chosen, `random` is asked for. */
  function adoptLearning(learning) {
    learning.onChangeStrategy = (event) => learning.setState({ strategy: event.target.value });
    const select = learningTab().querySelector('select');
    learning.setState({ strategy: select ? select.value : learning.state.strategy });
  }

  function learningTab() {
    return document.querySelector('.monaiLabelPanel input[name=activelearning]').closest('.tab');
  }

  // ------------------------------------------------------------------ talking with the server

  /* Failures reach the panel without the server's words, which say what to do about them. */
  function speakingClient(of, client) {
    const { infer, next_sample: nextSample, run_train: runTrain, stop_train: stopTrain } = client;
    const heard = async (request) => {
      of.failure = '';
      const response = await request;
      of.failure = response.status === 200 ? '' : sentenceOf(response);
      return response;
    };
    client.infer = (model, image, params) => {
      of.clicks = Object.fromEntries(Object.entries(params).filter(([, value]) => isClickList(value)));
      return heard(infer.call(client, model, image, { ...params, client_id: CLIENT }));
    };
    client.run_train = (params) => {
      of.nextLook = 0;
      return heard(runTrain.call(client, params));
    };
    client.stop_train = () => {
      of.nextLook = 0;
      return heard(stopTrain.call(client));
    };
    client.next_sample = async (strategy, params) => {
      const response = await heard(nextSample.call(client, strategy, { ...params, client_id: CLIENT }));
      /* An answer without a case opens an empty form, whose OK leads to a study named "undefined". */
      if (response.status === 200 && !response.data.StudyInstanceUID) {
        of.failure = 'No case is left: all of them have a label, or are with other annotators';
        return { status: 404 };
      }
      if (response.status === 200) {
        say(of, `Next case: ${response.data.reason}`, 'idle');
      }
      return response;
    };
    return client;
  }

  function isClickList(value) {
    return Array.isArray(value) && value.length > 0 && value.every(Array.isArray);
  }

  /* Notices lie on the panel's list of labels, and stay while the mouse is there. What went well stands in the bar. */
  function speakingNotifications(of, stock) {
    return {
      show: (notice) => {
        if (notice.type !== 'error') {
          return UNSHOWN;
        }
        say(of, of.failure || notice.message, 'failed');
        return stock.show({ ...notice, message: of.failure || notice.message, duration: ERROR_SHOWN_MS });
      },
      hide: (id) => id === UNSHOWN || stock.hide(id),
    };
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

  // ------------------------------------------------------------------ clicks and runs

  /* A label that was chosen and has no click has no list of clicks either, which the panel takes for granted: it throws,
     and its Run button is dead until the page is loaded again. */
  function keepClickLists() {
    const manager = window.cornerstoneTools.annotation.state.getAnnotationManager();
    if (manager.sam3dKeepsLists) {
      return;
    }
    manager.sam3dKeepsLists = true;
    const stockSave = manager.saveAnnotations;
    manager.saveAnnotations = (group, tool) => {
      const saved = stockSave(group, tool);
      if (!group && tool) {
        Object.values(saved).forEach((tools) => { tools[tool] = tools[tool] || []; });
      }
      return saved;
    };
  }

  /* The panel shows that it runs for four seconds, lets a second run start meanwhile, and stays disabled for good when
     something in it throws. */
  async function run(of, stockRun) {
    if (of.isRunning) {
      of.runAgain = true;
      return;
    }
    const end = showRunning(of, 'Segmenting');
    try {
      await stockRun();
      end(of.failure || 'Done', of.failure ? 'failed' : 'idle');
    } catch (error) {
      console.error(error);
      end(`The viewer could not do that: ${error.message}`, 'failed');
    }
    if (of.runAgain) {
      of.runAgain = false;
      await run(of, stockRun);
    }
  }

  function showRunning(of, what) {
    const since = Date.now();
    const show = () => say(of, `${what}… ${Math.round((Date.now() - since) / 1000)} s`, 'running');
    const timer = window.setInterval(show, 1000);
    of.isRunning = true;
    setBusy(of, true);
    show();
    return (sentence, state) => {
      window.clearInterval(timer);
      of.isRunning = false;
      setBusy(of, false);
      say(of, sentence, state);
    };
  }

  function setBusy(of, isBusy) {
    of.element.querySelectorAll('[data-needs-rest], [title^="Run "]').forEach((button) => { button.disabled = isBusy; });
  }

  function clicksShown() {
    const { state } = window.cornerstoneTools.annotation;
    return state.getAllAnnotations().filter((annotation) => annotation.metadata.toolName === PROBE);
  }

  function undoClick(of) {
    const newest = clicksShown().pop();
    if (!newest) {
      say(of, 'The label chosen has no click to take back', 'failed');
      return;
    }
    window.cornerstoneTools.annotation.state.removeAnnotation(newest.annotationUID);
    renderAll();
    say(of, 'Click taken back', 'idle');
    runIfAsked(of);
  }

  function runIfAsked(of) {
    if (of.bar && of.bar.querySelector('#sam3d-at-once').checked) {
      of.panel.actions.pointprompts.current.onRunInference();
    }
  }

  // ------------------------------------------------------------------ the labelmap

  function labelmap() {
    try {
      return window.services.segmentationService.getLabelmapVolume(SEGMENTATION);
    } catch (error) {
      return null; // there is none before the panel made it
    }
  }

  function segments() {
    const { segments: known } = window.services.segmentationService.getSegmentation(SEGMENTATION);
    return Object.values(known).filter(Boolean);
  }

  /* The panel counts the labels that were clicked to find out which value of the mask is which, so that a visit to
     `background` turns another label into it. It paints over a voxel only if that voxel's label is in the new mask as
     well, so that a lesion inside an organ may not show and an empty mask erases nothing. */
  function paintResult(of, response, model, labels) {
    const volume = labelmap();
    const mask = readMask(response.data);
    const shown = volume.voxelManager.getCompleteScalarDataArray();
    if (mask.length !== shown.length) {
      throw new Error(`it has ${mask.length} voxels and the image ${shown.length}; load the case again`);
    }
    const number = Object.fromEntries(segments().map((segment) => [segment.label, segment.segmentIndex]));
    const names = of.panel.state.info.modelIdxToLabelMap[model];
    const toSegment = new Uint8Array(256);
    Object.keys(names).forEach((value) => { toSegment[value] = number[names[value]] || 0; });
    const isReplaced = new Uint8Array(256);
    labels.filter((label) => isAnswered(of, label, model)).forEach((label) => { isReplaced[number[label]] = 1; });
    of.asked = new Set(labels.filter((label) => label in of.clicks));
    of.cleared = null;
    volume.voxelManager.setCompleteScalarDataArray(painted(of, shown, mask, toSegment, isReplaced));
    announceChange();
    of.bar.dataset.painted = Number(of.bar.dataset.painted || 0) + 1;
  }

  /* Whether a mask says all there is to say about a label: it was clicked on, now or at the last run; a visit without a
     click is not a wish to erase. Models without clicks answer for all of their labels. */
  function isAnswered(of, label, model) {
    const isChosen = label === of.panel.actions.pointprompts.current.state.currentLabel;
    const isClicked = label in of.clicks || of.asked.has(label);
    return isClicked || (isChosen && label === of.cleared) || of.panel.state.info.data.models[model].type === 'segmentation';
  }

  /* The new labelmap: `mask` on top, what it replaces gone, and what lay under that back again. */
  function painted(of, shown, mask, toSegment, isReplaced) {
    const under = of.under && of.under.length === shown.length ? of.under : new Uint8Array(shown.length);
    const result = new Uint8Array(shown.length);
    for (let i = 0; i < result.length; i += 1) {
      const base = isReplaced[shown[i]] ? under[i] : shown[i];
      const rest = isReplaced[base] ? 0 : base;
      const top = toSegment[mask[i]];
      result[i] = top || rest;
      under[i] = top && rest !== top ? rest : 0;
    }
    of.under = under;
    return result;
  }

  function readMask(buffer) {
    const bytes = new Uint8Array(buffer);
    let end = 0;
    while (end < bytes.length && !(bytes[end] === 10 && bytes[end + 1] === 10)) {
      end += 1;
    }
    const header = new TextDecoder().decode(bytes.subarray(0, end));
    if (!/^type: *(unsigned char|uint8)/m.test(header) || !/^encoding: *raw$/m.test(header)) {
      throw new Error('the mask is not an NRRD of bytes');
    }
    return bytes.subarray(end + 2);
  }

  function announceChange() {
    const { cornerstone, cornerstoneTools } = window;
    const change = cornerstoneTools.Enums.Events.SEGMENTATION_DATA_MODIFIED;
    cornerstone.triggerEvent(cornerstone.eventTarget, change, { segmentationId: SEGMENTATION });
  }

  function renderAll() {
    window.services.cornerstoneViewportService.getRenderingEngine().render();
  }

  /* Once for a page: clicks and changes of the labelmap, whoever made them. */
  function listen() {
    const { cornerstone, cornerstoneTools } = window;
    if (cornerstone.sam3dListens) {
      return;
    }
    cornerstone.sam3dListens = true;
    const { ANNOTATION_COMPLETED, SEGMENTATION_DATA_MODIFIED } = cornerstoneTools.Enums.Events;
    cornerstone.eventTarget.addEventListener(SEGMENTATION_DATA_MODIFIED, () => {
      if (session) {
        session.changes += 1;
        setUnsaved(session, true);
      }
    });
    cornerstone.eventTarget.addEventListener(ANNOTATION_COMPLETED, ({ detail }) => {
      if (session && session.bar && detail.annotation.metadata.toolName === PROBE) {
        runIfAsked(session);
      }
    });
  }

  // ------------------------------------------------------------------ storing a label

  /* The panel cannot store a label, and the viewer's own DICOM SEG export puts slices in the wrong places. The server
     gets the labelmap as it is on the screen. */
  async function submit(of) {
    const shown = new Uint8Array(labelmap().voxelManager.getCompleteScalarDataArray());
    const { data, labelInfo } = compacted(shown);
    if (!labelInfo.length) {
      say(of, 'There is nothing to submit: no label has a voxel', 'failed');
      return;
    }
    const end = showRunning(of, 'Submitting');
    const { changes } = of;
    try {
      const reply = await putLabel(of, data, labelInfo);
      const body = await reply.text();
      if (!reply.ok) {
        throw new Error(detailOf(body) || `the server answered ${reply.status}`);
      }
      setUnsaved(of, of.changes !== changes); // brushes may have gone on meanwhile
      const note = JSON.parse(body).note;
      end(`Stored: ${labelInfo.map(({ name }) => name).join(', ')}${note ? `. ${note}` : ''}`, 'idle');
      await refreshInfo(of);
    } catch (error) {
      end(`Not stored: ${error.message}`, 'failed');
    }
  }

  function putLabel(of, data, labelInfo) {
    const model = of.panel.actions.pointprompts.current.getSelectedModel();
    const form = new FormData();
    form.append('params', JSON.stringify({ label_info: labelInfo, model, clicks: of.clicks, client_id: CLIENT }));
    form.append('label', new Blob([data]), 'label.bin');
    const address = new URL('datastore/label', SERVER);
    address.searchParams.set('image', of.series);
    return fetch(address, { method: 'PUT', body: form });
  }

  /* The labelmap with the segments that have voxels numbered 1, 2, ..., as the server reads `label_info`. */
  function compacted(shown) {
    const counts = new Uint32Array(256);
    shown.forEach((segment) => { counts[segment] += 1; });
    const present = segments().filter(({ segmentIndex }) => counts[segmentIndex] > 0);
    const value = new Uint8Array(256);
    const labelInfo = present.map(({ label, segmentIndex }, index) => {
      value[segmentIndex] = index + 1;
      return { name: label, description: label, idx: index + 1, color: colorOf(segmentIndex) };
    });
    return { data: shown.map((segment) => value[segment]), labelInfo };
  }

  function colorOf(segmentIndex) {
    const { activeViewportId } = window.services.viewportGridService.getState();
    const { color } = window.cornerstoneTools.segmentation.config;
    return Array.from(color.getSegmentIndexColor(activeViewportId, SEGMENTATION, segmentIndex));
  }

  // ------------------------------------------------------------------ training

  /* The panel asks once, when it connects, how training goes and how good the model is; and its Stop button stays when
     the training has ended. Resolves to whether it has to be asked again soon. */
  async function lookAtTraining(of) {
    const reply = await fetch(new URL('train/?check_if_running=true', SERVER));
    const task = reply.ok ? await reply.json() : {};
    const isOn = ['SUBMITTED', 'RUNNING'].includes(task.status);
    const learning = of.panel.actions.activelearning.current;
    if (learning.state.training !== isOn) {
      learning.setState({ training: isOn });
    }
    if (isOn || of.isEndUnseen) {
      const isEndKnown = await refreshInfo(of);
      of.isEndUnseen = isOn || !isEndKnown; // a run that was stopped dies a moment later
    }
    return isOn || of.isEndUnseen;
  }

  /* Shows the server's figures. Resolves to whether they tell of no training, or of one that has ended. */
  async function refreshInfo(of) {
    const reply = await fetch(new URL('info/', SERVER));
    if (!reply.ok) {
      return false;
    }
    const { train_stats: stats, datastore, models } = await reply.json();
    const learning = of.panel.actions.activelearning.current;
    /* Epoch 0 counts as the first one done, and no training as one that is complete, unless the figures hold a time that
       it took. */
    const isFirstDone = (figures) => learning.state.training && figures.epoch > 0;
    const shown = Object.entries(stats || {}).map(([name, figures]) => (
      [name, isFirstDone(figures) ? figures : { total_time: '-', ...figures }]));
    Object.assign(of.panel.state.info.data, { train_stats: Object.fromEntries(shown), datastore, models });
    learning.forceUpdate(fillBars);
    const [figures] = Object.values(stats || {});
    of.bar.querySelector('#sam3d-training').textContent = trainingSentence(figures);
    return !figures || figures.state !== 'running';
  }

  /* The panel's bars are white from end to end, whatever they say. */
  function fillBars() {
    learningTab().querySelectorAll('.w3-container').forEach((bar) => {
      const share = bar.textContent;
      bar.style.background = `linear-gradient(to right, #5acce6 ${share}, #fff ${share})`;
    });
  }

  function trainingSentence(stats) {
    if (!stats) {
      return '';
    }
    const score = stats.best_metric ? `, Dice ${stats.best_metric.toFixed(2)}` : '';
    const epoch = stats.state === 'running' && stats.epoch ? `, epoch ${stats.epoch} of ${stats.total_epochs}` : '';
    return `Model: ${stats.served}${score}; ${stats.message || ''}${epoch}`;
  }

  // ------------------------------------------------------------------ our bar above the tabs

  function makeBar(of) {
    const bar = document.createElement('div');
    bar.id = 'sam3d-bar';
    bar.innerHTML = `
      <div id="sam3d-tools" role="group" aria-label="Tool of the left mouse button"></div>
      <button id="sam3d-undo" data-needs-rest>Undo click</button>
      <button id="sam3d-submit" data-needs-rest>Submit label</button>
      <label><input id="sam3d-at-once" type="checkbox"> Run on every click</label>
      <div role="status"></div>
      <div id="sam3d-training"></div>`;
    bar.querySelector('#sam3d-undo').onclick = () => undoClick(of);
    bar.querySelector('#sam3d-submit').onclick = () => submit(of);
    bar.querySelector('#sam3d-tools').append(...Object.keys(BRUSHES).map((name) => toolButton(of, name)));
    const tabs = of.element.querySelector('.tabs');
    tabs.parentElement.insertBefore(bar, tabs);
    of.bar = bar;
    say(of, 'Connected: choose a label under Point Prompts, click, Run', 'idle');
    return bar;
  }

  /* The brushes belong to the mode's tools, but no button of it leads to them. They paint the label that is chosen. */
  function toolButton(of, name) {
    const button = document.createElement('button');
    button.textContent = name;
    button.setAttribute('aria-pressed', name === 'Click');
    button.onclick = () => chooseTool(of, name);
    return button;
  }

  function chooseTool(of, name) {
    if (!chooseSegment(of) && BRUSHES[name] !== PROBE) {
      say(of, 'Choose a label first: a brush paints one', 'failed');
      return;
    }
    of.tool = name;
    window.commandsManager.runCommand('setToolActiveToolbar', { toolName: BRUSHES[name], toolGroupIds: TOOL_GROUPS });
    of.bar.querySelectorAll('#sam3d-tools button').forEach((button) => {
      button.setAttribute('aria-pressed', button.textContent === name);
    });
  }

  /* The label chosen becomes the one that brushes paint. Returns its segment; none for background or no label. */
  function chooseSegment(of) {
    const { currentLabel } = of.panel.actions.pointprompts.current.state;
    const segment = segments().find(({ label }) => label === currentLabel);
    if (segment) {
      window.cornerstoneTools.segmentation.segmentIndex.setActiveSegmentIndex(SEGMENTATION, segment.segmentIndex);
    }
    return segment;
  }

  function say(of, sentence, state) {
    if (of.bar) {
      of.bar.querySelector('[role=status]').textContent = sentence;
      of.bar.dataset.state = state;
    }
  }

  function setUnsaved(of, isUnsaved) {
    of.isUnsaved = isUnsaved;
    if (of.bar) {
      of.bar.dataset.unsaved = isUnsaved;
    }
  }
})();
