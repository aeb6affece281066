"""Recipes: the schema, TOML files, overrides, and starting from a finished run."""
