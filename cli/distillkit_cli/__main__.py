"""Run the command line with `python -m distillkit_cli`, as `--nproc` does for each process."""

from distillkit_cli.main import main

main()
