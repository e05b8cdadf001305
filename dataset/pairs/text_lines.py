"""Reads the lines of lists of pairs."""

from collections.abc import Iterator
from pathlib import Path


def read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yields `(place, line)` for each line of a text file in UTF-8, stripped; errors start with the place.

    Empty lines are left out.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not UTF-8.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected text in UTF-8, received {error}") from None
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield f"{path}: line {number}", line.strip()
