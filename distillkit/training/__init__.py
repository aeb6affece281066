"""The training loop: step, task, teacher targets, accuracy, gradient norms, steps that are not finite."""
