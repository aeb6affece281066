"""The trackers that come with distillkit: one module, one tracker."""
