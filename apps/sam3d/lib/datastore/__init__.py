"""MONAI Label's datastores, mended: labels come in versions, are checked at the door, and outlive a failing archive."""
