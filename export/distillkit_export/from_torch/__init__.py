"""The network as it is exported: heads fused, attention unfused, at the size that was chosen."""
