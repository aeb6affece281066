"""From files to batches: sources of images, their order, what happens to them, and how they reach the loop."""
