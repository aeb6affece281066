"""The gate: parity and accuracy of every exported file against the PyTorch model, and its limits."""
