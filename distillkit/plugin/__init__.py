"""Plugins: hooks, discovery, registry, run-time checks, error attribution."""
