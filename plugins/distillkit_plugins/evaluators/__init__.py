"""Built-in evaluators, the protocols of `distillkit evaluate`: top1, knn, linear, few-label."""
