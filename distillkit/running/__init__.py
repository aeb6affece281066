"""A training run: session, run directory, checkpoints, stop signals, incident log, progress, replay."""
