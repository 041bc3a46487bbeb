"""Next Sample: MONAI Label's strategies and scoring methods over `lib.scoring`, leases, and the thread that scores."""
