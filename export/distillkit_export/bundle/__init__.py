"""The bundle: its manifest, atomic publishing, reading without trust, preprocessing, predict.py."""
