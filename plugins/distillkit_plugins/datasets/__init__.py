"""Built-in data sets: digits, image folders, and everything timm reads."""
