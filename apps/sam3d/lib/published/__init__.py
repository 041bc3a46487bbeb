"""The published recipe and test of the 3DSAM-adapter (arXiv 2306.13465), as far as they are described."""
