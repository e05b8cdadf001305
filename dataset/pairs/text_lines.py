"""Reads the lines of text files that list pairs."""

from collections.abc import Iterator
from pathlib import Path

_QUOTED = 80
_MOST_DIGITS = 10


def quote(line: str) -> str:
    """Returns a line in quotes for an error message, cut to 80 characters."""
    return repr(line if len(line) <= _QUOTED else f"{line[:_QUOTED]}...")


def is_number(field: str) -> bool:
    """Tells whether a field is a whole number of at most ten digits. Python refuses thousands of digits."""
    return field.isdecimal() and len(field) <= _MOST_DIGITS


def read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yields `(place, line)` for each line of a text file in UTF-8, stripped. Empty lines are left out.

    Error messages start with the place, such as `pairs.txt: line 3`.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not UTF-8.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if line := line.strip():
                    yield f"{path}: line {number}", line
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected text in UTF-8, received {error}") from None
