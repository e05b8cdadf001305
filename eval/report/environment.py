"""The Jinja templates of the HTML pages, with the filters that they use."""

from pathlib import Path

import jinja2

from eval.report import words


def loader(*folders: Path) -> jinja2.BaseLoader:
    """Returns a loader that finds templates in these folders and in that of the report."""
    return jinja2.FileSystemLoader([*folders, Path(__file__).with_name("templates")], encoding="utf-8")


TEMPLATES = jinja2.Environment(
    loader=loader(),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
TEMPLATES.filters.update(rate=words.rate, count=words.count, signed=words.signed)
TEMPLATES.globals.update(words=words)
