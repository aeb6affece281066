"""Files: atomic writes, locks, and reading untrusted files within limits."""
