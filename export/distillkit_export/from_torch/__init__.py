"""The student prepared for export: heads fused, attention unfused, image size set, traced to ONNX."""
