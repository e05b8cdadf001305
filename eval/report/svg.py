"""Matplotlib's figures as inline SVG, whose colours are the page's variables: light or dark as it is."""

import io
import re
import warnings
from xml.etree import ElementTree

import matplotlib
from matplotlib.figure import Figure

NUM_COLOURS = 6  # --series-1 and so on

# Matplotlib knows no variables, so colours that nothing else has stand for them.
INK, MUTED, _GRID = "#00fe01", "#00fe02", "#00fe03"
_SERIES = tuple(f"#00fe1{number}" for number in range(1, NUM_COLOURS + 1))
_VARIABLES = {
    **{INK: "--ink", MUTED: "--muted", _GRID: "--grid"},
    **{colour: f"--series-{number}" for number, colour in enumerate(_SERIES, start=1)},
}
DASHES = ("-", (0, (5, 1.5)), (0, (1.3, 1.3)), (0, (6, 1.5, 1.3, 1.5)))
_MARKERS = "osD^vP"
_STYLE = {
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


def line_style(number, emphasise_first=False):
    """How the line of a number looks: colour and dashes both differ, for those who see no colours.

    The first is solid and the thickest: it is seen below others that lie on it.
    """
    return {
        "color": _SERIES[number % NUM_COLOURS],
        "linestyle": DASHES[(number + number // 12) % len(DASHES)],
        "linewidth": (2.2 if number == 0 else 1.0) if emphasise_first else 1.6,
    }


def marker_style(number):
    """How the markers of a number look: colour and shape both differ."""
    return {
        "color": _SERIES[number % NUM_COLOURS],
        "marker": _MARKERS[(number + number // 6) % len(_MARKERS)],
        "markersize": 4.5,
        "linestyle": "none",
    }


def render(draw, height, ident, title):
    """Calls `draw` with a figure of a height in inches, adds a legend below, and returns the SVG."""
    # The page's fonts have letters that Matplotlib's lacks; it only measures with its own.
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": ident}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure((_WIDTH, height), layout="constrained")
        draw(figure)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        if len(labels) > 1:
            num_columns = max(1, min(len(labels), _LEGEND_LENGTH // (max(map(len, labels)) + 6)))
            figure.set_figheight(height + _LEGEND_ROW * -(-len(labels) // num_columns))
            figure.legend(handles, labels, loc="outside lower center", ncols=num_columns)
        written = io.StringIO()
        none = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(written, format="svg", transparent=True, metadata=none)
    return _inline(written.getvalue(), ident, title)


def _inline(written, ident, title):
    """Matplotlib's SVG as a part of a page: its own ids, the page's fonts and colours, no more than seen."""
    root = ElementTree.fromstring(written)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.endswith("}style"):  # would be the whole page's
                parent.remove(child)
    for element in root.iter():
        # A page knows the elements of SVG without their namespaces.
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
