"""The gate: an exported file must agree with the PyTorch model before it ships."""
