"""Renders Matplotlib figures as inline SVG with the fonts and colours of the page, light or dark."""

import io
import re
import warnings
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import matplotlib
from matplotlib.figure import Figure

NUM_COLOURS = 8  # --series-1 and so on

# Matplotlib does not know CSS variables. These colours, which nothing else uses, stand for them until
# `_inline` replaces them.
INK, MUTED, _GRID = "#00fe01", "#00fe02", "#00fe03"
_SERIES = tuple(f"#00fe1{number}" for number in range(1, NUM_COLOURS + 1))
_VARIABLES = {
    **{INK: "--ink", MUTED: "--muted", _GRID: "--grid"},
    **{colour: f"--series-{number}" for number, colour in enumerate(_SERIES, start=1)},
}
DASHES = ("-", (0, (5, 1.5)), (0, (1.3, 1.3)), (0, (6, 1.5, 1.3, 1.5)))
_MARKERS = "osD^vPX*"
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
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
}
_WIDTH = 4.6  # inches; the width of a phone's screen, where the text has its nominal size
_KEY_SIZE = (0.5, 0.16)  # size of an entry of the legend, in inches


def line_style(number: int, emphasise_first: bool = False) -> dict[str, Any]:
    """Returns the style of a line. Colour and dashes both differ, for readers who cannot see colours.

    The first line is solid. With `emphasise_first` it is also the thickest, so that it can be seen below
    others that cover it.
    """
    return {
        "color": _SERIES[number % NUM_COLOURS],
        "linestyle": DASHES[(number + number // NUM_COLOURS) % len(DASHES)],
        "linewidth": (2.2 if number == 0 else 1.0) if emphasise_first else 1.6,
    }


def marker_style(number: int) -> dict[str, Any]:
    """Returns the style of markers. Colour and shape both differ."""
    return {
        "color": _SERIES[number % NUM_COLOURS],
        "marker": _MARKERS[(number + number // NUM_COLOURS) % len(_MARKERS)],
        "markersize": 4.5,
        "linestyle": "none",
    }


def render(draw: Callable[..., None], data: tuple, height: float, ident: str, title: str) -> str:
    """Draws a chart as an `svg` element of a page.

    Args:
        draw: called with a figure and `data`.
        height: height of the figure, in inches.
        ident: prefix of the ids inside the element. No other chart of the page may have it.
        title: describes the chart to readers who cannot see it.
    """
    return _render(draw, data, (_WIDTH, height), ident, {"role": "img", "aria-label": title})


def render_key(number: int, emphasise_first: bool = False) -> str:
    """Draws the line and the marker of a number as an `svg` element for the legend of a page."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.set_axis_off()
        style = marker_style(number) | line_style(number, emphasise_first)
        axes.plot([0, 0.5, 1], [0, 0, 0], markevery=[1], clip_on=False, **style)
        axes.set(xlim=(-0.05, 1.05), ylim=(-1, 1))

    return _render(draw, (), _KEY_SIZE, f"key{number}", {"aria-hidden": "true"})


def _render(draw, data, size, ident, attributes):
    # Matplotlib uses its font only to measure texts. The page's fonts have the letters that this font lacks.
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": ident}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(size, layout="constrained")
        draw(figure, *data)
        written = io.StringIO()
        none = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(written, format="svg", transparent=True, metadata=none)
    return _inline(written.getvalue(), ident, attributes)


def _inline(written: str, ident: str, attributes: dict[str, str]) -> str:
    """Turns an SVG file into a part of a page, with unique ids and the page's fonts and colours."""
    root = ElementTree.fromstring(written)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.endswith("}style"):  # it would apply to the whole page
                parent.remove(child)
    for element in root.iter():
        # HTML names the elements of SVG without their namespaces.
        element.tag = element.tag.rpartition("}")[2]
        element.tail = None
        own = {name.rpartition("}")[2]: value for name, value in element.attrib.items()}
        if element.tag == "g":
            own.pop("id", None)  # nothing refers to groups
        for name, value in own.items():
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
            own[name] = value
        element.attrib.clear()
        element.attrib.update(own)
        if element.text and not element.text.strip():
            element.text = None
    root.attrib = {"viewBox": root.attrib["viewBox"], **attributes}
    return ElementTree.tostring(root, encoding="unicode")
