"""refresher where it really runs: each home, by the files that are shipped for it."""
