"""`python -m distillkit_cli`, which is how torchrun starts the processes of a run."""

from distillkit_cli.main import main

main()
