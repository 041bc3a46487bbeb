"""The task behind Update Model."""
