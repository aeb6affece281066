"""Checks of untrusted ONNX files: structure, operators, external data, precision."""
