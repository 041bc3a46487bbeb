"""A DICOMweb server of a folder of DICOM files, so that OHIF works without an archive of its own.

Loopback only; for a site that sends by DIMSE, or to more than one machine, use a real archive.
"""
