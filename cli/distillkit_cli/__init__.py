"""The command line: one module per verb, which parses options, calls one library function and shows the result."""
