"""`--faithful` and `--preset` on a command line."""

import argparse


def parse_flags(parser, argv, faithful, presets=None):
    """Parses the command line; `--faithful` or `--preset` changes the defaults, and flags that are given win.

    Args:
        parser: `argparse.ArgumentParser` with a flag `--faithful`.
        argv: list of str, or `None` for the program's own arguments.
        faithful: dict, the defaults that `--faithful` sets.
        presets: dict from names to such dicts, for a parser with a flag `--preset`.

    Returns:
        The parsed flags.
    """
    early = argparse.ArgumentParser(add_help=False)
    early.add_argument("--faithful", action="store_true")
    if presets:
        early.add_argument("--preset", choices=presets)
    known = early.parse_known_args(argv)[0]
    preset = presets and known.preset
    if known.faithful and preset:
        parser.error(f"--preset: expected it without --faithful, received both; {preset} is a set of its own")
    if known.faithful:
        parser.set_defaults(**faithful)
    if preset:
        parser.set_defaults(**presets[preset])
    return parser.parse_args(argv)
