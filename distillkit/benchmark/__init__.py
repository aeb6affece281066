"""`distillkit bench`: speed of distillation steps on this machine, next to plain torch, timm's tasks, DeiT's engine."""
