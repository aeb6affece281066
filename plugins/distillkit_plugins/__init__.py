"""Built-in data sets, teachers, students, losses, evaluators and trackers, one module each."""
