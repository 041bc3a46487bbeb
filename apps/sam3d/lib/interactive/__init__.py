"""One request answered: clicks, patches, zooms, corrections, and the contract that holds whatever the network says."""
