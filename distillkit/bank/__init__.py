"""Target bank: the targets that losses compute from a teacher, stored on disk and read back by later runs."""
