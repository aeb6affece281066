"""Recipes: schema, files, overrides, named recipes, starting from a finished run."""
