"""`distillkit doctor`: which runtimes work on this machine, each tested on a tiny model, and how to fix the others."""
