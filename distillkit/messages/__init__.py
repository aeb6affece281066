"""Messages: text that is safe for a terminal, validation errors, nearest names, progress."""
