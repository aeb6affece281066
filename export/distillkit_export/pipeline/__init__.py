"""One export from start to end, `verify`, and adding formats to a bundle."""
