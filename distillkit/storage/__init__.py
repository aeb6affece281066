"""Files: atomic writes, locks, and reading untrusted files with size limits."""
