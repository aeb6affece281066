"""Devices, precisions, CPU counts, new interpreters, distributed processes, drawing, stop signals, `__main__` guard."""
