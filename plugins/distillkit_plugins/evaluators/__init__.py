"""The protocols of `distillkit evaluate`, one module each."""
