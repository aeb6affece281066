"""The data sets that come with distillkit: one module, one source."""
