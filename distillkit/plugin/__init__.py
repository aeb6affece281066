"""Plugins: hooks, discovery, the registry, checks at run time, error attribution."""
