"""One request answered: clicks, patches, corrections, drawings, and the contract that holds for any network."""
