/* The viewer's one labelmap: its voxels, its segments, and how and where it is shown. */
const sam3dLabelmap = (() => {
  'use strict';

  const SEGMENTATION = '1'; // the id that MONAI Label's panel gives it
  const LABELMAP = 'Labelmap'; // as the viewer calls what it is shown as

  function labelmap() {
    try {
      return window.services.segmentationService.getLabelmapVolume(SEGMENTATION);
    } catch (error) {
      return null; // there is none before the panel made it
    }
  }

  function copyOfLabelmap() {
    return Uint8Array.from(labelmap().voxelManager.getCompleteScalarDataArray());
  }

  function segments() {
    const { segments: known } = window.services.segmentationService.getSegmentation(SEGMENTATION);
    return Object.values(known).filter(Boolean);
  }

  function announceChange() {
    const { cornerstone, cornerstoneTools } = window;
    const change = cornerstoneTools.Enums.Events.SEGMENTATION_DATA_MODIFIED;
    cornerstone.triggerEvent(cornerstone.eventTarget, change, { segmentationId: SEGMENTATION });
  }

  function renderAll() {
    window.services.cornerstoneViewportService.getRenderingEngine().render();
  }

  /* Shows the `first`, `largest` or `last` slice of a label, and its middle there in the other planes. Returns whether
     the label has a voxel at all. */
  function goToSlice(segmentIndex, which) {
    const { voxelManager, dimensions, imageData } = labelmap();
    const found = sam3dSlices.landmarks(voxelManager.getCompleteScalarDataArray(), dimensions, segmentIndex);
    if (found) {
      const place = imageData.indexToWorld(found[which]);
      window.services.cornerstoneViewportService.getRenderingEngine().getViewports()
        .filter(({ jumpToWorld }) => jumpToWorld)
        .forEach((viewport) => viewport.jumpToWorld(place));
      renderAll();
    }
    return Boolean(found);
  }

  function viewports() {
    return [...window.services.viewportGridService.getState().viewports.keys()];
  }

  /* Masks as lines, under which the image can be seen, or filled. */
  function showOutlines(areLines) {
    const { config, triggerSegmentationEvents } = window.cornerstoneTools.segmentation;
    config.style.setStyle({ type: LABELMAP }, { renderFill: !areLines, renderOutline: true });
    viewports().forEach((viewport) => (
      triggerSegmentationEvents.triggerSegmentationRepresentationModified(viewport, SEGMENTATION, LABELMAP)));
  }

  function showMasks(areShown) {
    const { visibility } = window.cornerstoneTools.segmentation.config;
    viewports().forEach((viewport) => (
      visibility.setSegmentationRepresentationVisibility(viewport, { segmentationId: SEGMENTATION, type: LABELMAP }, areShown)));
  }

  return { SEGMENTATION, announceChange, copyOfLabelmap, goToSlice, labelmap, renderAll, segments, showMasks, showOutlines };
})();
