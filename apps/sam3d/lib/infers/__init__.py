"""The tasks that answer clicks, and the one network that requests share."""
