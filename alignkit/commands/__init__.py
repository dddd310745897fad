"""The commands of the command line: from parsed arguments to an exit code."""
