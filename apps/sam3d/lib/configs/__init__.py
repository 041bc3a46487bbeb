"""Which tasks the app has, for MONAI Label."""
