"""One export from start to end: options, target, stages, and `verify`."""
