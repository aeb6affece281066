"""One training run: its session, directory, checkpoints, incident log and replay."""
