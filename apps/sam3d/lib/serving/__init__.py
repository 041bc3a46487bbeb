"""Routes of our own in front of MONAI Label's."""
