"""`distillkit doctor`: what works on this machine, tried for real, and how to repair the rest."""
