"""Adds the directive `program-flags`, which lists all flags of a program from its parser.

```{program-flags} eval.test_lfw
```
"""

import argparse
import re

from sphinx.util.docutils import SphinxDirective

from site_extensions.parsers import find_parser


def setup(app):
    """Registers the directive with Sphinx."""
    app.add_directive("program-flags", ProgramFlags)
    return {"parallel_read_safe": True}


class ProgramFlags(SphinxDirective):
    """Lists the flags of each group with their effect and default."""

    required_arguments = 1

    def run(self):
        """Returns the nodes for the page."""
        name = self.arguments[0]
        return self.parse_text_to_nodes("\n".join(_describe(f"python -m {name}", find_parser(name))))


def _describe(command, parser):
    yield from [f"{_escape(parser.description or '')}", "", f":::{{program}} {command}", ":::", ""]
    formatter = parser._get_formatter()
    for group in parser._action_groups:
        actions = [action for action in group._group_actions if action.help != argparse.SUPPRESS]
        commands = [action for action in actions if isinstance(action, argparse._SubParsersAction)]
        flags = [action for action in actions if action not in commands and action.dest != "help"]
        if flags:
            yield from [f":::{{rubric}} {_escape(group.title[0].upper() + group.title[1:])}", ":::", ""]
            if group.description:
                yield from [_escape(group.description), ""]
        for action in flags:
            yield from [f"::::{{option}} {_signature(formatter, action)}"]
            is_required = action.required and action.option_strings
            text = formatter._expand_help(action) + " (required)" * bool(is_required)
            yield from [_escape(text), "::::", ""]
        for action in commands:
            for name, subparser in action.choices.items():
                yield from [f":::{{rubric}} {command} {name}", ":::", ""]
                yield from _describe(f"{command} {name}", subparser)


def _signature(formatter, action):
    """Returns a flag with its values, such as `--epoch N` or `--mirror, --no-mirror`."""
    if not action.option_strings:
        return formatter._format_args(action, formatter._get_default_metavar_for_positional(action))
    value = formatter._format_args(action, formatter._get_default_metavar_for_optional(action))
    flags = ", ".join(action.option_strings)
    return flags if action.nargs == 0 else f"{flags} {value}"


def _escape(text):
    """Escapes Markdown, so that the page shows the text unchanged, and `code` and --flags as code."""
    text = re.sub(r"(?<![\w`-])(--\w[\w-]*)", r"`\1`", " ".join(text.split()))
    pieces = re.split(r"(`[^`]+`)", text)
    return "".join(
        piece if place % 2 else re.sub(r"([\\`*_{}\[\]<>#$|~])", r"\\\1", piece)
        for place, piece in enumerate(pieces)
    )
