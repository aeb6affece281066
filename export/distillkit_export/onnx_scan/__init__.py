"""Reading an ONNX file without trusting it: structure, operators, precision."""
