"""The losses that come with distillkit: one module, one loss."""
