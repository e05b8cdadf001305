"""Renders formulas as MathML, which browsers show without a script."""

from docutils.nodes import SkipNode
from latex2mathml.converter import convert


def setup(app):
    """Registers the extension with Sphinx."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    return {"parallel_read_safe": True}


def _inline(writer, node):
    writer.body.append(convert(node.astext()))
    raise SkipNode


def _block(writer, node):
    writer.body.append(f'<div class="math">{convert(node.astext(), display="block")}</div>')
    raise SkipNode
