"""The inference runtimes, one module each: PyTorch, ONNX Runtime, OpenVINO."""
