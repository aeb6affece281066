"""Takes the place of NVIDIA's cuda-bindings in tests, where there is no GPU."""
