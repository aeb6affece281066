"""Devices, precisions, CPU counts, distributed processes, and the `__main__` guard for scripts."""
