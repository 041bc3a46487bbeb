"""Folders of labelled images to train and test on: what is in them, whether it can be used, and who trains."""
