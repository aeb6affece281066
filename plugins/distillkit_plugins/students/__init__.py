"""Built-in students: DeiT, every classifier of timm, and a small CNN."""
