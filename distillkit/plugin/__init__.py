"""Plugins: hooks, discovery, the registry, checks at run time, and which plugin an error is attributed to."""
