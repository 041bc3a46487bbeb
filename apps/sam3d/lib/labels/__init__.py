"""Label files as masks on an image's grid, by name; DICOM SEG read and written."""
