"""Devices, precisions, and the processes of a distributed run."""
