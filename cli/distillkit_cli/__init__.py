"""The command line: one module per subcommand, which parses options, calls one library function and shows the result.

Heavy imports stand inside the functions, so that `--help` and errors in option values do not wait for torch.
"""
