"""Converts docstrings to reStructuredText for autodoc: backticks, links and indented formulas."""

import inspect
import re

from sphinx.util.inspect import stringify_signature

_PIECES = re.compile(r"(`[^`]+`|\[[^\]]+\]\(https?://[^)\s]+\))")
_LINK = re.compile(r"\[([^\]]+)\]\((https?://[^)\s]+)\)")
_CODE = re.compile(r"`([^`]+)`(?!_)")
_MARKUP = re.compile(r"([*|])")


def setup(app):
    """Registers the extension with Sphinx."""
    app.connect("autodoc-process-docstring", _convert, priority=100)  # before napoleon reads the sections
    app.connect("autodoc-process-signature", _signature)
    return {"parallel_read_safe": True}


def _signature(app, what, name, obj, options, signature, returns):
    """Returns the signature of a class from its `__init__`. Keras hides it behind a generic `__new__`."""
    if what == "class":
        constructor = inspect.signature(obj.__init__)
        own = [argument for argument in constructor.parameters.values() if argument.name != "self"]
        constructor = constructor.replace(parameters=own, return_annotation=inspect.Signature.empty)
        return stringify_signature(constructor, unqualified_typehints=True), None
    return None


def _convert(app, what, name, obj, options, lines):
    converted = []
    outer = None  # inside a block of code: the indentation of the text before it
    for number, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        if outer is not None and line and indent <= outer:
            outer = None
        before = lines[number - 2] if number > 1 else ""
        is_after_gap = number > 1 and line and not lines[number - 1] and before
        if outer is None and is_after_gap and indent > len(before) - len(before.lstrip()):
            # A paragraph with more indentation than the one before it is a formula or code.
            outer = len(before) - len(before.lstrip())
            converted += [" " * outer + "::", ""]
        is_code = outer is not None or line.lstrip().startswith((">>>", "..."))
        converted.append(line if is_code else _inline(line))
    lines[:] = converted


def _inline(line):
    pieces = _PIECES.split(line)
    for place, piece in enumerate(pieces):
        if link := _LINK.fullmatch(piece):
            pieces[place] = f"`{link[1]} <{link[2]}>`__"
        elif code := _CODE.fullmatch(piece):
            pieces[place] = f"``{code[1]}``"
        else:
            pieces[place] = _MARKUP.sub(r"\\\1", piece)
    return "".join(pieces)
