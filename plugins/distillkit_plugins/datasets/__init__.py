"""Built-in data sets: digits, imagenette, image folders, and everything timm reads."""
