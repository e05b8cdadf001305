"""Figures of Matplotlib as inline SVG with the fonts and colours of the page, light or dark."""

import io
import re
import warnings
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import matplotlib
from matplotlib.figure import Figure

NUM_COLOURS = 6  # --series-1 and so on

# Matplotlib knows no CSS variables. Colours that nothing else has stand for them.
INK, MUTED, _GRID = "#00fe01", "#00fe02", "#00fe03"
_SERIES = tuple(f"#00fe1{number}" for number in range(1, NUM_COLOURS + 1))
_VARIABLES = {
    **{INK: "--ink", MUTED: "--muted", _GRID: "--grid"},
    **{colour: f"--series-{number}" for number, colour in enumerate(_SERIES, start=1)},
}
DASHES = ("-", (0, (5, 1.5)), (0, (1.3, 1.3)), (0, (6, 1.5, 1.3, 1.5)))
_MARKERS = "osD^vP"
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 9.4,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.7,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": "medium",
    "axes.titlelocation": "left",
    "grid.color": _GRID,
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "legend.handlelength": 2.6,
    "legend.columnspacing": 1.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
}
_WIDTH = 4.6  # inches; as wide as a phone's screen, where the text has its nominal size
_LEGEND_ROW = 0.19
_LEGEND_LENGTH = 62  # letters in a row; a line takes as much as 6 of them


def line_style(number: int, emphasise_first: bool = False) -> dict[str, Any]:
    """Returns the style of a line. Colour and dashes both differ, for readers who see no colours.

    The first line is solid and the thickest, so that it can be seen below others that cover it.
    """
    return {
        "color": _SERIES[number % NUM_COLOURS],
        "linestyle": DASHES[(number + number // 12) % len(DASHES)],
        "linewidth": (2.2 if number == 0 else 1.0) if emphasise_first else 1.6,
    }


def marker_style(number: int) -> dict[str, Any]:
    """Returns the style of markers. Colour and shape both differ."""
    return {
        "color": _SERIES[number % NUM_COLOURS],
        "marker": _MARKERS[(number + number // 6) % len(_MARKERS)],
        "markersize": 4.5,
        "linestyle": "none",
    }


def render(draw: Callable[..., None], data: tuple, height: float, ident: str, title: str) -> str:
    """Draws a chart and its legend as an `svg` element of a page.

    Args:
        draw: called with a figure and `data`.
        height: height of the figure without the legend, in inches.
        ident: letters that no other chart of the page has. They start the ids inside the element.
        title: describes the chart to readers who cannot see it.
    """
    # The page's fonts have letters that Matplotlib's lacks. Matplotlib uses its own only to measure texts.
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": ident}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure((_WIDTH, height), layout="constrained")
        draw(figure, *data)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        if len(labels) > 1:
            num_columns = max(1, min(len(labels), _LEGEND_LENGTH // (max(map(len, labels)) + 6)))
            figure.set_figheight(height + _LEGEND_ROW * -(-len(labels) // num_columns))
            figure.legend(handles, labels, loc="outside lower center", ncols=num_columns)
        written = io.StringIO()
        none = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(written, format="svg", transparent=True, metadata=none)
    return _inline(written.getvalue(), ident, title)


def _inline(written: str, ident: str, title: str) -> str:
    """Makes an SVG file a part of a page: with ids of its own, and the page's fonts and colours."""
    root = ElementTree.fromstring(written)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.endswith("}style"):  # it would apply to the whole page
                parent.remove(child)
    for element in root.iter():
        # HTML names the elements of SVG without their namespaces.
        element.tag = element.tag.rpartition("}")[2]
        element.tail = None
        attributes = {name.rpartition("}")[2]: value for name, value in element.attrib.items()}
        if element.tag == "g":
            attributes.pop("id", None)  # nothing refers to groups
        for name, value in attributes.items():
            if name == "id":
                value = f"{ident}-{value}"
            elif name in ("href", "clip-path"):
                value = value.replace("#", f"#{ident}-")
            elif name == "style":
                value = re.sub(r"font-family: [^;]*;? ?", "", value)
                value = re.sub(r"#00fe\w\w", lambda found: f"var({_VARIABLES[found[0]]})", value)
            elif name in ("d", "x", "y", "transform"):
                value = re.sub(r"-?\d+\.\d+", lambda found: f"{float(found[0]):.2f}", value)
                value = " ".join(value.split())
            attributes[name] = value
        element.attrib.clear()
        element.attrib.update(attributes)
        if element.text and not element.text.strip():
            element.text = None
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": title}
    return ElementTree.tostring(root, encoding="unicode")
