"""Contracts between core and plugins: model, loss, exporter, runtime, run. Does not import torch."""
