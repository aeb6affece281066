"""The gate: parity and accuracy of every exported file against the PyTorch model, with limits per precision."""
