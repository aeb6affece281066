"""NVIDIA's cuda-bindings in tests on machines without a GPU."""
