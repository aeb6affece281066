"""The contracts between core and plugins: model, loss, exporter, runtime, run. Imports no torch."""
