"""Built-in students: DeiT, every classifier of timm and torchvision, any module, a small CNN."""
