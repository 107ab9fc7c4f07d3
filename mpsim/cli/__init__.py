"""The command line: each command is one module here, imported when it is called."""

from mpsim.cli.program import cli, main

__all__ = ["cli", "main"]
