/* Mends the OHIF 3.10.0-beta.5 that ships with MONAI Label 0.8.5, and adds what annotating needs. It is appended to
   OHIF's configuration (routes.py), so it runs before the viewer. No file of the viewer is changed: the script waits for
   the MONAI Label panel, a React component, and puts methods of its own in the place of those that fail. Each says which
   fault it mends, and can go when a release mends it.

   Terms: a *segment* is a value in the viewer's labelmap, a *value* one in a mask of the server's; names join the two. */
(() => {
  'use strict';

  const PROBE = 'ProbeMONAILabel'; // the tool whose annotations are the clicks
  const { SEGMENTATION, announceChange, copyOfLabelmap, goToSlice, labelmap, renderAll, segments } = sam3dLabelmap;
  const BACKGROUND = 'background';
  const TOOL_GROUPS = ['default', 'mpr'];
  const OPAQUE = 255;
  const PRIMARY = 1; // the left mouse button
  const ALT = 18; // as the viewer's tools number modifier keys
  const TOOLS = { Click: PROBE, Brush: 'CircularBrush', Eraser: 'CircularEraser', Ball: 'SphereBrush' };
  const LOOK_MS = 250; // how often to look for a new panel
  const TRAINING_MS = 2000; // how often to ask about a running training
  const IDLE_MS = 10000; // and about one that somebody else may have started
  const ERROR_SHOWN_MS = 6000; // the bar shows it until the next thing is said
  const KEEP_MS = 1500; // after the last change
  const RECOUNT_MS = 300; // a brush changes the labelmap many times a second
  const REASON = 'sam3d.reason'; // why the next case is the next, for its page to say
  const REVIEW = 'sam3d.review'; // the case whose label is to be reviewed, for its page to show
  const DROPPED = 'sam3d.dropped'; // when which drafts were done with
  const OUTLINES = 'sam3d.outlines'; // whether masks are lines
  const BRUSH = 'sam3d.brush'; // the radius of brushes in mm
  const BRUSHES_OF = 'mpr'; // the tool group whose brushes paint
  const [NARROWEST_MM, WIDEST_MM] = [1, 50];
  const HINT = 'Click on it in an image. Alt + click: this is not it. ? shows the keys';
  const TRAINING_BEGINS = 'Training begins';
  const STROKE_ENDS_MS = 600; // the viewer waits so long for a second press before it paints by the first
  const UNSHOWN = 'sam3d-unshown'; // instead of the number of a notice
  const SERVER = window.location.origin + '/';
  const CHEAPEST = new URL('auth/', SERVER); // any answer of it will do
  const UNANSWERED = 'The server does not answer: the label may not be stored. It is kept here; submit again when the server answers';
  const GOES_ON = 'The server does not answer. This goes on by itself when it does';

  // ------------------------------------------------------------------ the page, whatever it shows

  /* The first press in another viewport only made it the active one. */
  window.config.activateViewportBeforeInteraction = false;
  window.config.extensions.push(sam3dLayout.extension);

  /* OHIF takes http://<host>:8000/ for the server on whatever port the page came from, keeps the last address in a
     cookie that all ports of a host share, and goes blank on a malformed one. */
  document.cookie = `MONAILABEL_SERVER_URL=${encodeURIComponent(SERVER)};path=/ohif`;

  /* Who annotates, so that no two are given the same case: a name of this browser's, kept from page to page. */
  const CLIENT = window.localStorage.getItem('sam3d.client') || `ohif-${Math.random().toString(36).slice(2)}`;
  window.localStorage.setItem('sam3d.client', CLIENT);

  function whoAsks() {
    return { client_id: CLIENT, client_name: sam3dCaseSection.userName() };
  }

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

  let isAltHeld = false; // at the newest press of a mouse button
  window.addEventListener('mousedown', (event) => {
    isAltHeld = event.altKey;
    if (session && session.bar && event.button === 0 && isBrushChosen() && !event.target.closest('#sam3d-bar, dialog')) {
      beginStroke(session);
    }
    /* A press in an image leaves the focus where it was: in a field, say, which would take the keys meant for us. */
    const focused = document.activeElement;
    if (focused && focused.closest('.monaiLabelPanel') && !focused.contains(event.target)) {
      focused.blur();
    }
  }, true);

  window.addEventListener('mouseup', () => {
    if (session && session.beforeStroke) {
      awaitStroke(session);
    }
  }, true);

  /* What was pressed by mouse does not keep the keyboard: Space and Enter are keys of ours. */
  document.addEventListener('click', (event) => {
    const pressed = event.target instanceof Element && event.target.closest('button, input[type=checkbox], input[type=radio]');
    if (session && pressed && event.detail > 0 && !isAsking()) {
      pressed.blur();
    }
  });

  /* Heard before the viewer, which has other uses for digits, C and Space (docs/ohif.md). */
  window.addEventListener('keydown', (event) => {
    const action = session && session.bar && !isAsking() && !isTyping(event) ? sam3dKeys.actionOf(event) : '';
    if (action) {
      event.preventDefault();
      event.stopImmediatePropagation();
      act(session, action, event.repeat);
    }
  }, true);

  function isAsking() {
    return Boolean(document.querySelector('dialog[open], [role=dialog], .nextSampleForm'));
  }

  function isTyping({ target, key }) {
    const takesText = 'input:not([type=checkbox], [type=radio]), textarea, select, [contenteditable]';
    const isIn = (selector) => target instanceof Element && target.closest(selector) !== null;
    return isIn(takesText) || ([' ', 'Enter'].includes(key) && isIn('button, a[href], input'));
  }

  window.addEventListener('beforeunload', (event) => {
    if (session && session.isUnsaved) {
      event.preventDefault();
      event.returnValue = ''; // Chromium before 119 asks only for this
    }
  });

  window.addEventListener('pagehide', () => session && session.section && session.section.leave());

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
    if (session && session.isUnsaved) {
      session.isUnsaved = false;
      dropDraft(session);
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
      bar: null,
      isRunning: false,
      doing: '', // what the bar says that it does, and
      sayDoing: null, // what says so, with the seconds
      runAgain: false, // a click came while the server was busy with the one before
      isUnsaved: false,
      changes: 0, // of the labelmap, so far
      failure: '', // the server's sentence about the last request that failed
      areMasksHidden: false,
      made: [], // clicks (label, annotation) and strokes of brushes, the newest last
      beforeStroke: null, // the labelmap as the brush that is on it found it
      strokeTimer: 0, // until which the stroke may still be painted
      changesBefore: 0, // of the labelmap, when the stroke began
      afterStroke: [], // keys that were pressed meanwhile
      takenBack: [], // of those, the newest last
      reply: {}, // the params of the last answer
      recount: 0, // the timer of the next count of voxels
      keeping: 0, // and of the next draft
      wasTraining: false, // since a training began, its own words were seen
      clicks: {}, // of the last request: label to voxel indices
      asked: new Set(), // labels whose clicks the mask on the screen answers
      cleared: null, // the label that was chosen when all clicks were taken away
      under: null, // segment below each voxel that a result took from another label
      answered: null, // the labelmap as the last answer left it
      start: null, // the labelmap that answers carry on from: a stored version, a draft, a SEG
      started: new Set(), // labels that it holds
      startedFrom: null, // which of them
      strokes: null, // what was painted (its segment) or erased since the first answer
      stroked: new Set(), // labels that were painted or erased
      nextLook: 0,
      section: null, // of the bar: how far the case is, and who has it
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
    /* Labels that the viewer does not know by name got colours by chance, others at each opening. */
    const colourOf = sam3dPalette.make(BACKGROUND);
    panel.segmentColor = (label) => [...colourOf(label), OPAQUE];
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
      startClicking(of);
    } else if (of.bar) {
      of.section.tick();
    }
    if (of.bar && Date.now() > of.nextLook && !document.hidden) {
      of.nextLook = Infinity; // until this look has ended
      lookAtScores(of).catch(() => {});
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
    return isAssigned && Boolean(loadedVolume());
  }

  function loadedVolume() {
    return window.cornerstone.cache.getVolumes().find(({ loadStatus }) => loadStatus && loadStatus.loaded);
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

  /* A study opens ready for its first click. */
  function startClicking(of) {
    const points = of.panel.actions.pointprompts.current;
    const tab = document.getElementById(points.tabId);
    tab.closest('.tab').dataset.sam3dFirst = '';
    of.element.dataset.folded = true;
    tab.click(); // which enters it
    sam3dLayout.foldSeries();
    sam3dLayout.fill(loadedVolume());
    showOutlines(of, areOutlined());
    say(of, window.sessionStorage.getItem(REASON) || HINT, 'idle');
    window.sessionStorage.removeItem(REASON);
    const isReview = window.sessionStorage.getItem(REVIEW) === of.series;
    window.sessionStorage.removeItem(REVIEW);
    restoreDraft(of).then(() => isReview && !of.changes && of.section.showNewest());
  }

  function adoptPoints(of, points) {
    const stockRun = points.onRunInference;
    const stockClear = points.clearAllPoints;
    const stockChange = points.onChangeLabel;
    points.onEnterActionTab = () => {
      chooseFirstLabel(of);
      chooseTool(of, 'Click');
    };
    points.onRunInference = () => run(of, stockRun);
    points.clearAllPoints = () => {
      // What is on the screen is finished work then, unless the label that is chosen runs without a click.
      of.asked = new Set();
      setStart(of, null);
      of.strokes = null;
      of.stroked = new Set();
      of.made = [];
      of.takenBack = [];
      of.answered = labelmap() ? copyOfLabelmap() : null;
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
      of.failure = response.status === 200 ? '' : sam3dReplies.sentenceOf(response);
      return response;
    };
    client.infer = (model, image, params) => {
      of.clicks = Object.fromEntries(Object.entries(params).filter(([, value]) => isClickList(value)));
      noteStrokes(of);
      return heard(askForMask(of, model, image, { ...params, ...whoAsks() }));
    };
    client.run_train = async (params) => {
      const response = await heard(runTrain.call(client, params));
      of.nextLook = 0;
      if (response.status === 200) {
        of.wasTraining = false;
        say(of, TRAINING_BEGINS, 'idle');
      }
      return response;
    };
    client.stop_train = () => {
      of.nextLook = 0;
      return heard(stopTrain.call(client));
    };
    client.next_sample = async (strategy, params) => {
      /* A study is opened whole: what is a phase of a series, or no DICOM, cannot be led to. */
      const asked = { ...params, ...whoAsks(), series_only: true };
      const response = await heard(nextSample.call(client, strategy, asked));
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

  /* The stock client's request for a mask, with what brushes did beside the clicks, and with the reply's params beside
     the mask. */
  async function askForMask(of, model, image, params) {
    const address = new URL(`infer/${encodeURIComponent(model)}`, SERVER);
    address.searchParams.set('image', image);
    address.searchParams.set('output', 'all');
    const numbers = segments().map(({ label, segmentIndex }) => ({ name: label, id: segmentIndex }));
    const asked = { ...params, result_extension: '.nrrd', result_dtype: 'uint8', result_compress: false, restore_label_idx: false };
    const form = new FormData();
    form.append('params', JSON.stringify(of.strokes || of.start ? { ...asked, label_info: numbers } : asked));
    if (of.start) {
      form.append('label', new Blob([of.start]), 'label.bin');
    }
    if (of.strokes) {
      form.append('strokes', new Blob([of.strokes]), 'strokes.bin');
    }
    try {
      const reply = await persistently(of, () => sam3dConnection.ask(address, { method: 'POST', body: form }));
      if (!reply.ok) {
        return { status: reply.status, response: { status: reply.status, data: reply.body } };
      }
      const { params: told, mask } = sam3dReplies.readForm(reply.body, reply.headers.get('content-type'));
      of.reply = told;
      return { status: reply.status, data: mask };
    } catch (error) {
      return error;
    }
  }

  /* Asks, and while no answer comes waits for the server and asks again: a mask may be asked for twice without harm.
     Nobody waits for the mask of a case that was left. */
  async function persistently(of, ask) {
    const { doing } = of;
    for (;;) {
      try {
        return await ask();
      } catch (error) {
        if (!(error instanceof sam3dConnection.NoAnswer) || session !== of) {
          throw error;
        }
        showDoing(of, GOES_ON);
        setUnsaved(of, true);
        keepDraft(of);
        await sam3dConnection.untilAnswered(CHEAPEST, () => session !== of);
        showDoing(of, doing);
      }
    }
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
    endStroke(of);
    const end = showRunning(of, 'Segmenting');
    const since = Date.now();
    try {
      await stockRun();
      const model = of.panel.actions.pointprompts.current.getSelectedModel();
      end(of.failure || sam3dReplies.answerSentence(of.reply, model, Date.now() - since), of.failure ? 'failed' : 'idle');
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
    of.sayDoing = () => say(of, `${of.doing}… ${Math.round((Date.now() - since) / 1000)} s`, 'running');
    const timer = window.setInterval(() => of.sayDoing(), 1000);
    of.isRunning = true;
    setBusy(of, true);
    showDoing(of, what);
    return (sentence, state) => {
      window.clearInterval(timer);
      of.isRunning = false;
      setBusy(of, false);
      say(of, sentence, state);
    };
  }

  function showDoing(of, what) {
    of.doing = what;
    of.sayDoing();
  }

  function setBusy(of, isBusy) {
    of.element.querySelectorAll('[data-needs-rest], [title^="Run "]').forEach((button) => { button.disabled = isBusy; });
  }

  /* A click was made: for the label chosen, the first one if there is none, and background with Alt held. Outside of the
     image there is nothing to click on. */
  function takeClick(of, annotation) {
    const points = of.panel.actions.pointprompts.current;
    if (!isInImage(annotation)) {
      removeClick(annotation);
      say(of, 'That is outside of the image: no click was made', 'failed');
      return;
    }
    const chosen = points.state.currentLabel;
    const label = isAltHeld ? BACKGROUND : chosen || labelNames(of)[0];
    if (label !== chosen) {
      removeClick(annotation);
      chooseFirstLabel(of);
      withLabel(of, label, () => addClick(annotation));
    }
    endStroke(of);
    of.made.push({ label, annotation });
    of.takenBack = [];
    runIfAsked(of);
  }

  function isInImage(annotation) {
    const { imageData, dimensions } = labelmap();
    const index = imageData.worldToIndex(annotation.data.handles.points[0]).map(Math.round);
    return index.every((at, axis) => at >= 0 && at < dimensions[axis]);
  }

  function addClick(annotation) {
    window.cornerstoneTools.annotation.state.getAnnotationManager().addAnnotation(annotation);
    renderAll();
  }

  function removeClick({ annotationUID }) {
    window.cornerstoneTools.annotation.state.removeAnnotation(annotationUID);
    renderAll();
  }

  /* The panel keeps the clicks of the labels that are not chosen as copies: theirs are changed by choosing them. */
  function withLabel(of, label, change) {
    const points = of.panel.actions.pointprompts.current;
    const chosen = points.state.currentLabel;
    points.onChangeLabel(label);
    change();
    points.onChangeLabel(chosen);
  }

  function isShown({ annotationUID }) {
    const { state } = window.cornerstoneTools.annotation;
    return state.getAllAnnotations().some((annotation) => annotation.annotationUID === annotationUID);
  }

  /* Takes back what was done last, a click or a stroke. */
  function undo(of) {
    endStroke(of);
    let undone = null;
    while (of.made.length && !undone) { // some clicks may be gone by Clear Points
      const last = of.made.pop();
      undone = last.stroke || takeBack(of, last) ? last : null;
    }
    if (undone) {
      of.takenBack.push(undone);
    }
    if (undone && undone.stroke) {
      restore(of, undone.stroke, false);
    }
    changed(of, undone, 'taken back', 'There is no click or stroke to take back');
  }

  function takeBack(of, { label, annotation }) {
    let isDone = false;
    withLabel(of, label, () => {
      isDone = isShown(annotation);
      if (isDone) {
        removeClick(annotation);
      }
    });
    return isDone;
  }

  function redo(of) {
    endStroke(of);
    const again = of.takenBack.pop();
    if (again) {
      of.made.push(again);
      if (again.stroke) {
        restore(of, again.stroke, true);
      } else {
        withLabel(of, again.label, () => addClick(again.annotation));
      }
    }
    changed(of, again, 'made again', 'There is no click or stroke to make again');
  }

  function changed(of, what, sentence, refusal) {
    const name = what && what.stroke ? 'Stroke' : 'Click';
    say(of, what ? `${name} ${sentence}` : refusal, what ? 'idle' : 'failed');
    if (what && (!what.stroke || of.asked.size)) { // a stroke on its own was not answered
      runIfAsked(of);
    }
  }

  // ------------------------------------------------------------------ strokes of brushes

  function isBrushChosen() {
    const group = window.services.toolGroupService.getToolGroup('mpr');
    const active = group && group.getActivePrimaryMouseButtonTool();
    return active !== PROBE && Object.values(TOOLS).includes(active);
  }

  function beginStroke(of) {
    endStroke(of);
    of.beforeStroke = labelmap() ? copyOfLabelmap() : null;
    of.changesBefore = of.changes;
  }

  /* What a drag painted is there when the button is let go of. What a mere press paints comes late, by the tool that is
     chosen then: keys wait for it. */
  function awaitStroke(of) {
    if (of.changes !== of.changesBefore) {
      endStroke(of);
      return;
    }
    of.strokeTimer = window.setTimeout(endStroke, STROKE_ENDS_MS, of);
  }

  function endStroke(of) {
    window.clearTimeout(of.strokeTimer);
    of.strokeTimer = 0;
    const before = of.beforeStroke;
    of.beforeStroke = null;
    const stroke = before && sam3dStrokes.difference(before, copyOfLabelmap());
    if (stroke) {
      stroke.sentBefore = of.strokes ? sam3dStrokes.valuesAt(of.strokes, stroke.at) : new Uint8Array(stroke.at.length);
      of.made.push({ stroke });
      of.takenBack = [];
    }
    of.afterStroke.splice(0).forEach((what) => act(of, ...what));
  }

  /* A stroke's voxels as they were before it, or as it made them; nor is it sent along, until it is made again. */
  function restore(of, { at, before, after, sentBefore }, isAgain) {
    const shown = copyOfLabelmap();
    sam3dStrokes.put(shown, at, isAgain ? after : before, isAgain ? before : after);
    if (!isAgain && of.answered) {
      sam3dStrokes.put(of.answered, at, before, after);
    }
    if (!isAgain && of.strokes) {
      at.forEach((voxel, n) => { of.strokes[voxel] = sentBefore[n]; });
      if (!of.strokes.some(Boolean)) {
        of.strokes = null;
        of.stroked = new Set();
      }
    }
    labelmap().voxelManager.setCompleteScalarDataArray(shown);
    announceChange();
  }

  function runIfAsked(of) {
    if (of.bar && of.bar.querySelector('#sam3d-at-once').checked) {
      of.panel.actions.pointprompts.current.onRunInference();
    }
  }

  // ------------------------------------------------------------------ the labelmap

  /* Brush work since the last answer, kept with what was noted before: like clicks, all of it is sent each time, so that
     a mask that is answered anew does not take it back. */
  function noteStrokes(of) {
    const shown = copyOfLabelmap();
    const ofThisSize = (list) => (list && list.length === shown.length ? list : null);
    const { strokes, touched } = sam3dPainting.noted(shown, ofThisSize(of.answered), ofThisSize(of.strokes));
    segments().filter(({ segmentIndex }) => touched.has(segmentIndex)).forEach(({ label }) => of.stroked.add(label));
    of.strokes = of.stroked.size ? strokes : null;
    of.answered = shown;
  }

  /* The panel counts the labels that were clicked to find out which value of the mask is which, so that a visit to
     `background` turns another label into it. It paints over a voxel only if that voxel's label is in the new mask as
     well, so that a lesion inside an organ may not show and an empty mask erases nothing. */
  function paintResult(of, response, model, labels) {
    const volume = labelmap();
    const mask = sam3dReplies.readMask(response.data);
    const shown = volume.voxelManager.getCompleteScalarDataArray();
    if (mask.length !== shown.length) {
      throw new Error(`it has ${mask.length} voxels and the image ${shown.length}; load the case again`);
    }
    const number = Object.fromEntries(segments().map((segment) => [segment.label, segment.segmentIndex]));
    const names = of.panel.state.info.modelIdxToLabelMap[model];
    const toSegment = new Uint8Array(256);
    Object.keys(names).forEach((value) => { toSegment[value] = number[names[value]] || 0; });
    const isReplaced = new Uint8Array(256);
    [...labels, ...of.stroked, ...of.started].filter((label) => isAnswered(of, label, model))
      .forEach((label) => { isReplaced[number[label]] = 1; });
    of.asked = new Set(labels.filter((label) => label in of.clicks));
    of.cleared = null;
    const meanwhile = of.answered && sam3dStrokes.difference(of.answered, shown);
    const known = of.under && of.under.length === shown.length ? of.under : null;
    const { result: answered, under } = sam3dPainting.painted(meanwhile ? of.answered : shown, mask, toSegment, isReplaced, known);
    Object.assign(of, { answered, under });
    const result = Uint8Array.from(of.answered);
    if (meanwhile) { // painted while the server worked: the next request tells of it
      meanwhile.at.forEach((voxel, n) => { result[voxel] = meanwhile.after[n]; });
    }
    volume.voxelManager.setCompleteScalarDataArray(result);
    announceChange();
    showMasks(of, true);
    showVolumes(of);
    of.bar.dataset.painted = Number(of.bar.dataset.painted || 0) + 1;
  }

  /* Whether a mask says all there is to say about a label: it was clicked on, now or at the last run; a visit without a
     click is not a wish to erase. Models without clicks answer for all of their labels. */
  function isAnswered(of, label, model) {
    const isChosen = label === of.panel.actions.pointprompts.current.state.currentLabel;
    const isClicked = label in of.clicks || of.asked.has(label) || of.stroked.has(label) || of.started.has(label);
    return isClicked || (isChosen && label === of.cleared) || of.panel.state.info.data.models[model].type === 'segmentation';
  }

  /* A mask that there is already, in place of what is on the screen; clicks carry on from it. */
  async function startFrom(of, address, start, hint = '') {
    if (!mayLeave()) {
      return;
    }
    const end = showRunning(of, 'Fetching what to start from');
    try {
      const reply = await fetch(address);
      if (!reply.ok) {
        throw new Error(sam3dReplies.detailOf(await reply.text()) || `the server answered ${reply.status}`);
      }
      const segmentation = await sam3dReplies.readSegmentation(new Uint8Array(await reply.arrayBuffer()));
      const points = of.panel.actions.pointprompts.current;
      const segmentOf = Object.fromEntries(segments().map(({ label, segmentIndex }) => [label, segmentIndex]));
      const found = sam3dStarts.toLabelmap(segmentation, segmentOf, points.state.currentLabel);
      const volume = labelmap();
      if (found.labelmap.length !== volume.voxelManager.getCompleteScalarDataArray().length) {
        throw new Error(`it has ${found.labelmap.length} voxels, and the image has not; load the case again`);
      }
      points.clearAllPoints();
      setStart(of, found.labelmap);
      of.startedFrom = sam3dStarts.keyOf(start);
      of.answered = Uint8Array.from(of.start);
      of.under = null;
      of.cleared = null;
      volume.voxelManager.setCompleteScalarDataArray(Uint8Array.from(of.start));
      announceChange();
      setUnsaved(of, false);
      dropDraft(of);
      showMasks(of, true);
      end(`${sam3dStarts.nameOf(start)}: ${found.sentence}${hint}`, 'idle');
    } catch (error) {
      end(`That cannot be started from: ${error.message}`, 'failed');
    }
  }

  /* Every answer carries on from `start`, and so says all that there is to say of the labels in it. */
  function setStart(of, start) {
    const counts = sam3dReplies.count(start || []);
    of.start = start;
    of.started = new Set(segments().filter(({ segmentIndex }) => counts[segmentIndex]).map(({ label }) => label));
  }

  /* Once for a page: clicks and changes of the labelmap, whoever made them. */
  function listen() {
    const { cornerstone, cornerstoneTools } = window;
    if (cornerstone.sam3dListens) {
      return;
    }
    cornerstone.sam3dListens = true;
    const { ANNOTATION_COMPLETED, SEGMENTATION_DATA_MODIFIED, TOOL_ACTIVATED } = cornerstoneTools.Enums.Events;
    cornerstone.eventTarget.addEventListener(SEGMENTATION_DATA_MODIFIED, () => {
      if (session) {
        session.changes += 1;
        setUnsaved(session, true);
        window.clearTimeout(session.recount);
        session.recount = window.setTimeout(showVolumes, RECOUNT_MS, session);
        window.clearTimeout(session.keeping);
        session.keeping = window.setTimeout(keepDraft, KEEP_MS, session);
      }
    });
    cornerstone.eventTarget.addEventListener(ANNOTATION_COMPLETED, ({ detail }) => {
      if (session && session.bar && detail.annotation.metadata.toolName === PROBE) {
        takeClick(session, detail.annotation);
      }
    });
    cornerstone.eventTarget.addEventListener(TOOL_ACTIVATED, showTool);
  }

  /* What the labelmap holds of each label, whoever put it there. The server's diameter is told while it is of that. */
  function showVolumes(of) {
    const volume = of.bar && labelmap();
    if (!volume) {
      return;
    }
    const counts = sam3dReplies.count(volume.voxelManager.getCompleteScalarDataArray());
    const voxelMm3 = volume.spacing.reduce((product, mm) => product * mm, 1);
    const lines = segments().filter(({ segmentIndex }) => counts[segmentIndex]).map(({ label, segmentIndex }) => {
      const { voxels, axial_diameter_mm: diameterMm } = (of.reply.measurements || {})[label] || {};
      const voxelsShown = counts[segmentIndex];
      const size = sam3dReplies.sizeSentence(voxelsShown, voxelMm3, voxels === voxelsShown ? diameterMm : undefined);
      return volumeLine(of, label, segmentIndex, size);
    });
    of.bar.querySelector('#sam3d-volumes').replaceChildren(...lines);
  }

  /* A label's colour, name and size, and the ways to its slices. */
  function volumeLine(of, label, segmentIndex, size) {
    const line = document.createElement('div');
    line.dataset.label = label;
    line.style.borderColor = `rgb(${of.panel.segmentColor(label).slice(0, 3)})`;
    const buttons = Object.entries({ first: 'First', largest: 'Largest', last: 'Last' }).map(([which, name]) => {
      const button = document.createElement('button');
      button.textContent = name;
      button.title = `${name} slice of ${label}`;
      button.onclick = () => goToSlice(segmentIndex, which);
      return button;
    });
    line.append(`${label}: ${size} `, ...buttons);
    return line;
  }

  function goToLargest(of) {
    const segment = chooseSegment(of);
    if (!segment || !goToSlice(segment.segmentIndex, 'largest')) {
      say(of, `${segment ? segment.label : 'The label'} has no voxel to go to`, 'failed');
    }
  }

  /* Masks as lines, or filled; kept for the next case. */
  function showOutlines(of, areLines) {
    window.localStorage.setItem(OUTLINES, areLines ? 'yes' : '');
    of.bar.querySelector('#sam3d-outline').setAttribute('aria-pressed', areLines);
    sam3dLabelmap.showOutlines(areLines);
  }

  function areOutlined() {
    return Boolean(window.localStorage.getItem(OUTLINES));
  }

  function showMasks(of, areShown) {
    of.areMasksHidden = !areShown;
    sam3dLabelmap.showMasks(areShown);
  }

  // ------------------------------------------------------------------ what was not submitted

  async function keepDraft(of) {
    const isChanging = of.isRunning && of.doing !== GOES_ON;
    if (isChanging) {
      of.keeping = window.setTimeout(keepDraft, KEEP_MS, of);
    }
    if (!of.isUnsaved || isChanging) {
      return;
    }
    try {
      const { strokes, stroked, asked, series, start, startedFrom } = of;
      const clicks = of.made.filter(({ annotation }) => annotation)
        .map(({ label, annotation }) => ({ label, annotation: JSON.parse(JSON.stringify(annotation)) }));
      const masks = await sam3dDrafts.pack(copyOfLabelmap());
      const packed = { masks, strokes: strokes && await sam3dDrafts.pack(strokes), start: start && await sam3dDrafts.pack(start) };
      if (of.isUnsaved && session === of) {
        await sam3dDrafts.keep({ series, when: Date.now(), ...packed, startedFrom, clicks, stroked: [...stroked], asked: [...asked] });
        of.bar.dataset.kept = Number(of.bar.dataset.kept || 0) + 1;
      }
    } catch (error) {
      console.warn('sam3d: what is not submitted cannot be kept', error); // a browser that keeps nothing
    }
  }

  /* The page may go away before the database has done it: that it is to be done is noted at once. */
  function dropDraft(of) {
    window.clearTimeout(of.keeping);
    window.sessionStorage.setItem(DROPPED, JSON.stringify({ ...droppedDrafts(), [of.series]: Date.now() }));
    sam3dDrafts.drop(of.series).catch(console.warn);
  }

  function droppedDrafts() {
    return JSON.parse(window.sessionStorage.getItem(DROPPED) || '{}');
  }

  /* The clicks and masks that were on the screen when the page went away; the next answer is to all clicks, as ever. */
  async function restoreDraft(of) {
    const draft = await sam3dDrafts.read(of.series).catch(() => null);
    const isKept = draft && draft.when > (droppedDrafts()[of.series] || 0);
    const masks = isKept && await sam3dDrafts.unpack(draft.masks);
    if (!masks || session !== of || of.changes || masks.length !== copyOfLabelmap().length) {
      return;
    }
    const points = of.panel.actions.pointprompts.current;
    const chosen = points.state.currentLabel;
    draft.clicks.forEach(({ label, annotation }) => {
      points.onChangeLabel(label);
      addClick(annotation);
      of.made.push({ label, annotation });
    });
    points.onChangeLabel(chosen);
    of.strokes = draft.strokes && await sam3dDrafts.unpack(draft.strokes);
    setStart(of, draft.start ? await sam3dDrafts.unpack(draft.start) : null);
    of.startedFrom = draft.startedFrom;
    of.stroked = new Set(draft.stroked);
    of.asked = new Set(draft.asked);
    of.answered = masks;
    labelmap().voxelManager.setCompleteScalarDataArray(Uint8Array.from(masks));
    announceChange();
    say(of, `As you left it at ${new Date(draft.when).toLocaleTimeString()}, not submitted yet`, 'idle');
  }

  // ------------------------------------------------------------------ storing a label

  /* The panel cannot store a label, and the viewer's own DICOM SEG export puts slices in the wrong places. The server
     gets the labelmap as it is on the screen. */
  async function submit(of) {
    const shown = new Uint8Array(labelmap().voxelManager.getCompleteScalarDataArray());
    const { data, present } = sam3dPainting.compacted(shown, sam3dReplies.count(shown), segments());
    const labelInfo = present.map(({ label }, index) => (
      { name: label, description: label, idx: index + 1, color: of.panel.segmentColor(label) }));
    if (!labelInfo.length) {
      say(of, 'There is nothing to submit: no label has a voxel', 'failed');
      return;
    }
    const end = showRunning(of, 'Submitting');
    const { changes } = of;
    try {
      const reply = await putLabel(of, data, labelInfo);
      const body = new TextDecoder().decode(reply.body);
      if (!reply.ok) {
        throw new Error(sam3dReplies.detailOf(body) || `the server answered ${reply.status}`);
      }
      setUnsaved(of, of.changes !== changes); // brushes may have gone on meanwhile
      if (!of.isUnsaved) {
        dropDraft(of);
      }
      const note = JSON.parse(body).note;
      end(`Stored: ${labelInfo.map(({ name }) => name).join(', ')}${note ? `. ${note}` : ''}`, 'idle');
      await Promise.all([refreshInfo(of), of.section.look()]);
    } catch (error) {
      end(error instanceof sam3dConnection.NoAnswer ? UNANSWERED : `Not stored: ${error.message}`, 'failed');
    }
  }

  function putLabel(of, data, labelInfo) {
    const model = of.panel.actions.pointprompts.current.getSelectedModel();
    const form = new FormData();
    form.append('params', JSON.stringify({ label_info: labelInfo, model, clicks: of.clicks, started_from: of.startedFrom, ...whoAsks() }));
    form.append('label', new Blob([data]), 'label.bin');
    const address = new URL('datastore/label', SERVER);
    address.searchParams.set('image', of.series);
    return sam3dConnection.ask(address, { method: 'PUT', body: form });
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
      const isEndKnown = await refreshInfo(of, isOn);
      of.isEndUnseen = isOn || !isEndKnown; // a run that was stopped dies a moment later
    }
    return isOn || of.isEndUnseen;
  }

  /* Shows the server's figures. Resolves to whether they tell of no training, or of one that has ended. */
  async function refreshInfo(of, isOn = of.panel.actions.activelearning.current.state.training) {
    const reply = await fetch(new URL('info/', SERVER));
    if (!reply.ok) {
      return false;
    }
    const { train_stats: stats, datastore, models } = await reply.json();
    const learning = of.panel.actions.activelearning.current;
    /* Epoch 0 counts as the first one done, and no training as one that is complete, unless the figures hold a time that
       it took. */
    const isFirstDone = (figures) => isOn && figures.epoch > 0;
    const shown = Object.entries(stats || {}).map(([name, figures]) => (
      [name, isFirstDone(figures) ? figures : { total_time: '-', ...figures }]));
    Object.assign(of.panel.state.info.data, { train_stats: Object.fromEntries(shown), datastore, models });
    learning.forceUpdate(fillBars);
    const [figures] = Object.values(stats || {});
    of.wasTraining = isOn && (of.wasTraining || (figures || {}).state === 'running');
    const sentence = sam3dTraining.sentence(sam3dTraining.current(figures, isOn, of.wasTraining));
    of.bar.querySelector('#sam3d-training').textContent = sentence;
    if (!isOn && of.bar.querySelector('[role=status]').textContent === TRAINING_BEGINS) {
      say(of, 'Training has ended', 'idle'); // how, stands below
    }
    return !figures || figures.state !== 'running';
  }

  async function lookAtScores(of) {
    const reply = await fetch(new URL('scoring/progress', SERVER));
    of.bar.querySelector('#sam3d-scores').textContent = reply.ok ? sam3dScores.sentence(await reply.json()) : '';
  }

  /* The panel's bars are white from end to end, whatever they say. */
  function fillBars() {
    learningTab().querySelectorAll('.w3-container').forEach((bar) => {
      const share = bar.textContent;
      bar.style.background = `linear-gradient(to right, #5acce6 ${share}, #fff ${share})`;
    });
  }

  // ------------------------------------------------------------------ keys

  function act(of, action, isRepeat) {
    const [what, number] = action.split(' ');
    if (isRepeat && !['undo', 'redo', 'narrower', 'wider'].includes(what)) {
      return;
    }
    if (of.strokeTimer) {
      of.afterStroke.push([action, isRepeat]);
      return;
    }
    const deeds = {
      label: () => chooseNumber(of, Number(number)),
      click: () => chooseTool(of, 'Click'),
      brush: () => chooseTool(of, 'Brush'),
      eraser: () => chooseTool(of, 'Eraser'),
      undo: () => undo(of),
      redo: () => redo(of),
      masks: () => showMasks(of, of.areMasksHidden),
      outline: () => showOutlines(of, !areOutlined()),
      largest: () => goToLargest(of),
      layout: () => window.commandsManager.runCommand('toggleOneUp'),
      narrower: () => setBrush(of, brushMm() - 1),
      wider: () => setBrush(of, brushMm() + 1),
      submit: () => of.isRunning || submit(of),
      next: () => of.isRunning || goToNextCase(of),
      ...Object.fromEntries(['start', 'download', 'approve', 'send_back', 'review_next'].map((deed) => (
        [deed, () => of.isRunning || of.section.act(deed)]))),
      help: () => sam3dKeysDialog.show(),
    };
    deeds[what]();
  }

  function labelNames(of) {
    const points = of.panel.actions.pointprompts.current;
    return points.getModelLabels(points.getSelectedModel()).filter((label) => label !== BACKGROUND);
  }

  function chooseNumber(of, number) {
    const label = labelNames(of)[number - 1];
    if (label) {
      of.panel.actions.pointprompts.current.onChangeLabel(label);
      say(of, `${label} is chosen`, 'idle');
    } else {
      say(of, `There is no label ${number}`, 'failed');
    }
  }

  function chooseFirstLabel(of) {
    const points = of.panel.actions.pointprompts.current;
    if (!points.state.currentLabel) {
      points.onChangeLabel(labelNames(of)[0]);
    }
  }

  /* Next Sample without its form: the case that the server gives, by the strategy chosen. */
  async function goToNextCase(of) {
    const end = showRunning(of, 'Looking for the next case');
    const { strategy } = of.panel.actions.activelearning.current.state;
    const response = await of.panel.client().next_sample(strategy, {});
    if (response.status !== 200) {
      end(of.failure, 'failed');
      return;
    }
    end(`Next case: ${response.data.reason}`, 'idle');
    goToStudy(response.data.StudyInstanceUID, `Next case: ${response.data.reason}`);
  }

  /* Loads another study, whose page says why, and shows the label of the case that is to be reviewed; unless there are
     changes to stay for. */
  function goToStudy(study, reason, toReview = '') {
    if (mayLeave()) {
      window.sessionStorage.setItem(REASON, reason);
      window.sessionStorage.setItem(REVIEW, toReview);
      const address = new URL(window.location.href);
      address.search = new URLSearchParams({ StudyInstanceUIDs: study });
      window.location.assign(address);
    }
  }

  async function goToCase(of, image) {
    const address = new URL('datastore/image/info', SERVER);
    address.searchParams.set('image', image);
    const reply = await fetch(address);
    const info = reply.ok ? await reply.json() : {};
    if (info.StudyInstanceUID) {
      goToStudy(info.StudyInstanceUID, 'A label to review', image);
    } else {
      say(of, `${image} is no DICOM study, so this viewer cannot show it`, 'failed');
    }
  }

  // ------------------------------------------------------------------ our bar above the tabs

  function makeBar(of) {
    const bar = document.createElement('div');
    bar.id = 'sam3d-bar';
    bar.innerHTML = `
      <div id="sam3d-tools" role="group" aria-label="Tool of the left mouse button"></div>
      <button id="sam3d-undo" data-needs-rest>Undo</button>
      <button id="sam3d-redo" data-needs-rest>Redo</button>
      <button id="sam3d-submit" data-needs-rest>Submit label</button>
      <button id="sam3d-outline">Outlines</button>
      <label>Brush <input id="sam3d-brush" type="range" min="${NARROWEST_MM}" max="${WIDEST_MM}"> <span></span></label>
      <label><input id="sam3d-at-once" type="checkbox" checked> Answer every click</label>
      <div role="status"></div>
      <div id="sam3d-volumes"></div>
      <div id="sam3d-training"></div>
      <div id="sam3d-scores"></div>
      <button id="sam3d-settings">Server and options</button>
      <button id="sam3d-help">Keys (?)</button>`;
    bar.querySelector('#sam3d-undo').onclick = () => undo(of);
    bar.querySelector('#sam3d-redo').onclick = () => redo(of);
    bar.querySelector('#sam3d-submit').onclick = () => submit(of);
    bar.querySelector('#sam3d-outline').onclick = () => showOutlines(of, !areOutlined());
    bar.querySelector('#sam3d-settings').onclick = () => {
      of.element.dataset.folded = of.element.dataset.folded !== 'true';
    };
    bar.querySelector('#sam3d-help').onclick = sam3dKeysDialog.show;
    const slider = bar.querySelector('#sam3d-brush');
    slider.oninput = () => setBrush(of, Number(slider.value));
    slider.onchange = () => slider.blur(); // keys are meant for the images again
    bar.querySelector('#sam3d-tools').append(...Object.keys(TOOLS).map((name) => toolButton(of, name)));
    const tabs = of.element.querySelector('.tabs');
    tabs.parentElement.insertBefore(bar, tabs);
    of.bar = bar;
    setBrush(of, brushMm());
    of.section = sam3dCaseSection.make({
      server: SERVER,
      client: CLIENT,
      say: (sentence, state) => say(of, sentence, state),
      open: (image) => goToCase(of, image),
      startFrom: (...what) => startFrom(of, ...what),
    });
    of.section.follow(of.series);
    bar.querySelector('#sam3d-volumes').after(of.section.element);
    return bar;
  }

  /* The radius of brushes, kept for the next case; at first the viewer's own. */
  function brushMm() {
    const { getBrushSizeForToolGroup } = window.cornerstoneTools.utilities.segmentation;
    return Number(window.localStorage.getItem(BRUSH)) || Math.round(getBrushSizeForToolGroup(BRUSHES_OF));
  }

  /* The viewer's brushes are one width, wider than many lesions, and nothing on its page changes that. */
  function setBrush(of, radiusMm) {
    const radius = Math.min(Math.max(radiusMm, NARROWEST_MM), WIDEST_MM);
    const { setBrushSizeForToolGroup } = window.cornerstoneTools.utilities.segmentation;
    TOOL_GROUPS.filter((id) => window.services.toolGroupService.getToolGroup(id))
      .forEach((id) => setBrushSizeForToolGroup(id, radius));
    window.localStorage.setItem(BRUSH, radius);
    of.bar.querySelector('#sam3d-brush').value = radius;
    of.bar.querySelector('#sam3d-brush + span').textContent = `${radius} mm`;
  }

  /* The brushes belong to the mode's tools, but no button of it leads to them. They paint the label that is chosen. */
  function toolButton(of, name) {
    const button = document.createElement('button');
    button.textContent = name;
    button.dataset.tool = TOOLS[name];
    button.onclick = () => chooseTool(of, name);
    return button;
  }

  function chooseTool(of, name) {
    if (!chooseSegment(of) && TOOLS[name] !== PROBE) {
      say(of, 'Choose a label first: a brush paints one', 'failed');
      return;
    }
    window.commandsManager.runCommand('setToolActiveToolbar', { toolName: TOOLS[name], toolGroupIds: TOOL_GROUPS });
    if (TOOLS[name] === PROBE) {
      bindAlt();
    }
  }

  /* With Alt held the viewer knows no tool of the left button. */
  function bindAlt() {
    const bindings = [{ mouseButton: PRIMARY }, { mouseButton: PRIMARY, modifierKey: ALT }];
    TOOL_GROUPS.map((id) => window.services.toolGroupService.getToolGroup(id)).filter(Boolean)
      .forEach((group) => group.setToolActive(PROBE, { bindings }));
  }

  /* Whoever chose a tool, we or the viewer's own buttons: what the left button is shows. */
  function showTool() {
    if (!session || !session.bar) {
      return;
    }
    const active = window.services.toolGroupService.getToolGroup('mpr').getActivePrimaryMouseButtonTool();
    session.bar.querySelectorAll('#sam3d-tools button').forEach((button) => {
      button.setAttribute('aria-pressed', button.dataset.tool === active);
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
