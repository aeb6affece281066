"""The runtimes in which exported students are executed; one module each."""
