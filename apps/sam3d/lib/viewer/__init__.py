"""OHIF as MONAI Label serves it, mended."""
