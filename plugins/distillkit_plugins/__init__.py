"""The data sets, teachers, students, losses and trackers that come with distillkit, one module each."""
