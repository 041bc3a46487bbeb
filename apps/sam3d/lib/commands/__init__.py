"""What `cli.py` can do: a module for each command, with `add_options` and `run`."""
