"""Commands as functions, for tests."""

from iom.cli.main import main


def command(name):
    """`iom NAME`, as a function from its arguments to the exit code."""
    return lambda arguments: main([name, *map(str, arguments)])
