"""The command line: one module per verb, each of which parses, calls one library function and shows the result."""
