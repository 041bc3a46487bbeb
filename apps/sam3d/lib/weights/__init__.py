"""Which weights a server starts from, the versions that training makes of them, and SAM's own fetched."""
