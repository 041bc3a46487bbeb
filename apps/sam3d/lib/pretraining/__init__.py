"""Training from nothing or on a set of labelled cases."""
