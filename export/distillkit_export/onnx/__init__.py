"""ONNX files: export, float16, quantisation, sessions."""
