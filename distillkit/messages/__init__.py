"""The wording of messages: text that a terminal can show, validation errors, nearest names, progress."""
