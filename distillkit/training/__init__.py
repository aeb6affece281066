"""The training loop: step, task, teacher targets, optimisation, accuracy, gradient norms, skipped steps."""
