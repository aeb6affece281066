"""The bundle: its manifest, how it is written in one piece, and how it is read without trusting it."""
