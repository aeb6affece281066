"""The plan: everything about a run that can be known before any weights are loaded."""
