/* How the three planes share the window, and how near they show the patient. */
const sam3dLayout = (() => {
  'use strict';

  const MODE = '/monai-label'; // the end of its address
  const PROTOCOL = 'mpr'; // how it hangs a series
  /* In that protocol's order: axial, sagittal, coronal. */
  const PLACES = [
    { x: 0, y: 0, width: 0.6, height: 1 },
    { x: 0.6, y: 0, width: 0.4, height: 0.5 },
    { x: 0.6, y: 0.5, width: 0.4, height: 0.5 },
  ];
  const MARGIN = 1.04; // what is shown, in parts of the body

  /* The viewer hears of it by its own setting `extensions`, and calls it before a series is hung. Three columns beside
     each other are tall and narrow, and a body in them is small. */
  const extension = {
    id: 'sam3d',
    onModeEnter: ({ servicesManager }) => {
      if (window.location.pathname.endsWith(MODE)) {
        const [stage] = servicesManager.services.hangingProtocolService.getProtocolById(PROTOCOL).stages;
        stage.viewportStructure.properties = { rows: 2, columns: 2, layoutOptions: PLACES };
      }
    },
  };

  let corners = []; // of the body, in mm
  const filled = new Map(); // by viewport: the scale at which the body fills it

  /* Shows in each viewport the body as large as it fits, its middle in the middle; and again when a viewport gets another
     size, until somebody has zoomed or moved it. */
  function fill({ voxelManager, dimensions, imageData }) {
    corners = sam3dBody.corners(sam3dBody.extent((i, j, k) => voxelManager.getAtIJK(i, j, k), dimensions))
      .map((index) => imageData.indexToWorld(index));
    filled.clear();
    follow(window.services.cornerstoneViewportService);
    planes().forEach(fillOne);
  }

  function planes() {
    return window.services.cornerstoneViewportService.getRenderingEngine().getViewports().filter(({ type }) => type === 'orthographic');
  }

  function fillOne(viewport) {
    const { position, focalPoint } = viewport.getCamera();
    const { shift, halfHeight } = viewOf(viewport);
    const moved = (point) => point.map((value, axis) => value + shift[axis]);
    viewport.setCamera({ position: moved(position), focalPoint: moved(focalPoint), parallelScale: halfHeight * MARGIN });
    viewport.render();
    filled.set(viewport.id, viewport.getCamera().parallelScale);
  }

  function viewOf(viewport) {
    const { clientWidth, clientHeight } = viewport.canvas;
    return sam3dBody.view(corners, viewport.getCamera(), clientWidth / clientHeight);
  }

  function isAsFilled(viewport) {
    const { parallelScale } = viewport.getCamera();
    const isNear = viewOf(viewport).shift.every((mm) => Math.abs(mm) < 0.01 * parallelScale);
    return isNear && Math.abs(parallelScale / filled.get(viewport.id) - 1) < 0.001;
  }

  /* The viewer keeps what it shows of a viewport whose size changes. */
  function follow(service) {
    if (service.sam3dFollows) {
      return;
    }
    service.sam3dFollows = true;
    const stockResize = service.performResize;
    service.performResize = () => {
      const untouched = planes().filter(isAsFilled);
      stockResize.call(service);
      untouched.forEach(fillOne);
    };
  }

  /* The list of series is no help where there is one image, and takes a quarter of a small window. */
  function foldSeries() {
    const header = document.querySelector('[data-cy=side-panel-header-left]');
    const images = window.services.displaySetService.getActiveDisplaySets()
      .filter(({ isReconstructable, isOverlayDisplaySet }) => isReconstructable && !isOverlayDisplaySet); // a SEG lies on one
    if (header && images.length === 1) {
      header.click();
    }
  }

  return { extension, fill, foldSeries };
})();
