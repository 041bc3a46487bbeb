"""Procedurally made, anatomy-like volumes: endless training patches, demo studies and test phantoms."""
