"""`--faithful` on a command line."""

import argparse


def parse_flags(parser, argv, faithful):
    """Parses the command line; `--faithful` changes the defaults, and flags that are given win.

    Args:
        parser: `argparse.ArgumentParser` with a flag `--faithful`.
        argv: list of str, or `None` for the program's own arguments.
        faithful: dict, the defaults that `--faithful` sets.

    Returns:
        The parsed flags.
    """
    early = argparse.ArgumentParser(add_help=False)
    early.add_argument("--faithful", action="store_true")
    if early.parse_known_args(argv)[0].faithful:
        parser.set_defaults(**faithful)
    return parser.parse_args(argv)
