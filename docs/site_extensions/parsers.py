"""Finds the argument parser of a program without running it."""

import argparse
import importlib
import importlib.util
from unittest import mock


class _Found(Exception):
    """Ends a program as soon as its parser is complete, and carries the parser."""


def find_parser(name):
    """Returns the `ArgumentParser` of a program, such as `eval.test_lfw`.

    Raises:
        ValueError: `--help` of the program prints no help.
    """
    package = importlib.util.find_spec(name).submodule_search_locations
    module = importlib.import_module(f"{name}.__main__" if package else name)

    def stop(parser, *_):
        raise _Found(parser)

    with mock.patch.object(argparse.ArgumentParser, "print_help", stop):
        try:
            module.main(["--help"])
        except _Found as found:
            return found.args[0]
    raise ValueError(f"python -m {name} --help: expected a parser that prints help, found none")
