"""What the pages of a report are made of, as HTML. Plain text is escaped here, markup is called so."""

from html import escape
from pathlib import Path

from eval.scoring.metrics import FARS, tar_name

# Nothing is loaded and nothing runs, whatever a run's texts say.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_NONE = "–"

METHODS = {  # -> short, and in a sentence
    "mean": ("mean", "A video is the mean of its frames’ embeddings."),
    "normalised_mean": (
        "normalised mean",
        "A video is the mean of its frames’ embeddings, each of unit length: the original’s templates.",
    ),
    "norm_weighted": (
        "norm-weighted mean",
        "A video is the mean of its frames’ embeddings of unit length, weighted by what their length was.",
    ),
    "geometric_median": (
        "geometric median",
        "A video is the geometric median of its frames’ embeddings, which a few odd frames do not move.",
    ),
    "best_frames": ("best frames", "The distance of two videos is that of their nearest frames."),
    "mean_frames": ("mean of frames", "The distance of two videos is the mean over all pairs of frames."),
    "median_frames": (
        "median of frames",
        "The distance of two videos is the median over all pairs of frames.",
    ),
}
RULES = {
    "best": "the best accuracy on the other folds",
    "crossing": "the original’s: where the sorted distances of the other folds cross",
}
FOLDS = {"official": "the official splits", "position": "the original’s: by position in the file"}
ERROR_FILTERS = {
    "none": "all pairs count",
    "both": "pairs with a wrong video are left out",
    "positives": "genuine pairs with a wrong video are left out",
}


def page(title, markup):
    """A whole page, without anything outside of it."""
    style = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>
{style}</style>
</head>
<body>
<main>
{markup}
</main>
</body>
</html>
"""


def name_markup(name):
    """A name that breaks behind its underscores, if it must."""
    return escape(name).replace("_", "_<wbr>")


def method_label(method):
    """A method's name in a table or a legend."""
    return METHODS[method][0] if method in METHODS else method.replace("_", " ")


def rate(value, digits=4):
    """A fraction, or a dash where there is none."""
    return _NONE if value is None else f"{value:.{digits}f}"


def count(value):
    """A number of things, which may be a median, or a dash where there is none."""
    return _NONE if value is None else f"{value:,.1f}".removesuffix(".0")


def cell(value, interval=None):
    """A number in a table, above its interval."""
    below = "" if interval is None else f"<small>{interval[0]:.4f}–{interval[1]:.4f}</small>"
    return f"<td>{rate(value)}{below}</td>"


def metric_heads():
    """Heads of the columns that `metric_cells` fills."""
    return ["EER", "AUC", ("TAR at FAR", [f"{far:g}" for far in FARS])]


def metric_cells(scores):
    """Cells of one method's scores; those that the pairs do not allow have a dash."""
    names = ["eer", "auc", *map(tar_name, FARS)]
    return [cell(scores["metrics"].get(name), scores["intervals"].get(name)) for name in names]


def table(label, heads, rows, kind=""):
    """A table that scrolls in a box of its own.

    Args:
        label: str, what the table shows.
        heads: sequence of markup, the first above the names of the rows; or of `(markup, texts)`, which
            is above several columns.
        rows: sequence of `tr` elements.
        kind: str, a class of the style sheet.
    """
    above, below = [], []
    for number, head in enumerate(heads):
        if isinstance(head, str):
            name = "" if number else ' class="name"'
            above.append(f'<th scope="col" rowspan="2"{name}>{head}</th>')
        else:
            above.append(f'<th scope="colgroup" colspan="{len(head[1])}"><span>{head[0]}</span></th>')
            below += [f'<th scope="col">{escape(text)}</th>' for text in head[1]]
    if not below:
        above = [head.replace(' rowspan="2"', "") for head in above]
    parts = [f"<tr>{''.join(heads)}</tr>" for heads in (above, below) if heads]
    return (
        f'<div class="table {kind}" role="region" tabindex="0" aria-label="{escape(label)}"><table>\n'
        f"<thead>{''.join(parts)}</thead>\n<tbody>\n{chr(10).join(rows)}\n</tbody></table></div>"
    )


def facts(items, kind=""):
    """Terms and what they are: `(term, text)`; a list of texts is shown one below the other as code."""
    parts = []
    for term, text in items:
        codes = (
            "".join(f"<dd><code>{escape(line)}</code></dd>" for line in text)
            if isinstance(text, list)
            else ""
        )
        parts.append(f"<div><dt>{escape(term)}</dt>{codes or f'<dd>{escape(text)}</dd>'}</div>")
    return f'<dl class="facts {kind}">{"".join(parts)}</dl>'


def chart(svg, name, text):
    """A chart below its name and a sentence."""
    return f"<figure><figcaption><b>{escape(name)}.</b> {escape(text)}</figcaption>{svg}</figure>"


def section(title, *markup):
    """A part of the page with a heading."""
    return "\n".join([f"<section>\n<h2>{escape(title)}</h2>", *filter(None, markup), "</section>"])


def folded(summary, markup):
    """Markup that opens at a click."""
    return f"<details><summary>{escape(summary)}</summary>{markup}</details>"


def folded_list(summary, items, shown=200):
    """A list that opens at a click; the first of a long one. Nothing where there are no items."""
    if not items:
        return ""
    lines = [f"<li>{escape(item)}</li>" for item in items[:shown]]
    if len(items) > shown:
        lines.append(f"<li>and {len(items) - shown:,} more</li>")
    return folded(summary, f"<ul>{''.join(lines)}</ul>")


def fold_name(scores):
    """What a fold is called: the official ones are splits."""
    return "split" if scores["folds"] == "official" else "fold"


def frames_text(frames):
    """How frames go into the model, from the scores' inputs."""
    height, width = frames["image_size"]
    crop = "no crop" if frames["crop"] is None else f"cropped to {' × '.join(map(str, frames['crop']))}"
    return f"{height} × {width}, {crop}, {'with' if frames['flip'] else 'no'} mirror images"


def num_found(coverage):
    """How many videos have frames, from the scores' coverage."""
    return coverage["videos"] - len(coverage["missing"]) - len(coverage["empty"])


def bootstrap_note(scores):
    """Where the intervals come from, and what a dash means."""
    bootstrap = scores["bootstrap"]
    return (
        f'<p class="muted">Below the numbers: {100 * bootstrap["confidence"]:g} % intervals of '
        f"{bootstrap['num_resamples']:,} bootstrap resamples, of folds for the accuracy, of identities for "
        f"all else. {_NONE}: too few impostor pairs to measure that FAR.</p>"
    )
