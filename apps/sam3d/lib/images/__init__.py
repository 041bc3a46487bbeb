"""Volumes and what they are read from and made into: files, DICOM series, patches for the network."""
