"""The student as a PyTorch graph to export: heads fused, attention unfused, at the size chosen."""
