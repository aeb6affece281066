"""Everything about a run that can be known before a weight is loaded."""
