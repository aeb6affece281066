"""`python -m distillkit`: the same command line as `distillkit`."""

from importlib import import_module

# Imported by name: the core has no import statement for a package above it, and the wheel always contains this one.
import_module("distillkit_cli.main").main()
