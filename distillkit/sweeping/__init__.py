"""A sweep: many runs over recipe keys, several at once, from a grid or from a search with Optuna."""
