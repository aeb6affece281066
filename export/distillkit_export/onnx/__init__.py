"""ONNX files: export, float16, quantisation, value ranges, sessions."""
