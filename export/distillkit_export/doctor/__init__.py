"""What works on this machine, tried for real, and what to do about the rest. Needs none of what it looks for."""
