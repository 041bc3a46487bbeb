"""What every training shares: the step and its simulated clicks, cases and their cache, runs that may be killed."""
