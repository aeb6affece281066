"""Devices, precisions and the processes of a run."""
