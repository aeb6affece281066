"""One training run: session, directory, checkpoints, stop signals, incident log, progress, replay."""
