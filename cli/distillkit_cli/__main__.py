"""Run the command line with `python -m distillkit_cli`, as torchrun does for each process."""

from distillkit_cli.main import main

main()
