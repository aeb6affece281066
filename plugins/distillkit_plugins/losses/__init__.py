"""Built-in losses, one module each, and the attention and divergence functions they share."""
