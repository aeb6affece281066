"""One training run: its session, directory, checkpoints, incident log, progress and replay."""
