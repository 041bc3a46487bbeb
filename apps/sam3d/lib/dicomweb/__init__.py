"""A small DICOMweb server for demonstrations and tests, so that OHIF works without an archive of its own.

Uncompressed instances in one folder, loopback only, no login: for anything else use a real archive.
"""
