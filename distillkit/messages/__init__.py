"""The parts of a message: text that a terminal can show, validation errors, nearest names; and progress."""
