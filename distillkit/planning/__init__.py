"""The plan: models, classes, losses, steps and cost of a run, resolved before any weights are loaded."""
