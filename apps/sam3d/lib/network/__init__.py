"""The 3DSAM-adapter (arXiv 2306.13465), its weights and their papers."""
