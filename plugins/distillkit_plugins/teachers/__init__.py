"""The teachers that come with distillkit: one module per source of models."""
