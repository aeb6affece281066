"""`python -m distillkit`: the command line, which every distribution of the core contains."""

from importlib import import_module

import_module("distillkit_cli.main").main()
