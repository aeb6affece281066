"""Files: atomic writes, and reading untrusted files within limits."""
