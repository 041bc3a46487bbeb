"""A set of labelled cases as folders that others train on."""
