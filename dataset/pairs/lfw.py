"""Reads the list of pairs of Labeled Faces in the Wild (LFW), `pairs.txt`."""

from pathlib import Path

from dataset.pairs.text_lines import is_number, quote, read_lines

_LINE = "Name, number, number or Name, number, Name, number"


def read_lfw_pairs(path: Path) -> list[tuple[str, str, bool]]:
    """Reads `pairs.txt`, or another list in its format.

    Lines are `Name<TAB>i<TAB>j` for two images of one person, or `Name<TAB>i<TAB>Name<TAB>j` for two people.
    The first line may contain the counts: `10<TAB>300` means ten folds, each with 300 genuine pairs followed
    by 300 impostor pairs. A single number means one fold.

    References:
    - [Labeled Faces in the Wild](http://vis-www.cs.umass.edu/lfw/), its README

    Returns:
        `(first image, second image, is same)` in the order of the file. An image is `Name/Name_0001`,
        without a suffix.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: a line cannot be read, or the pairs do not match the counts in the first line. The
            message names the file, and the line if possible.
    """
    counts, pairs, places = None, [], []
    for place, line in read_lines(path):
        fields = [field.strip() for field in line.split("\t" if "\t" in line else None, 4)]
        if counts is None and not pairs and len(fields) <= 2 and all(map(is_number, fields)):
            counts = [1, *map(int, fields)][-2:]
            continue
        pairs.append(_pair(place, line, fields))
        places.append(place)
    if not pairs:
        raise ValueError(f"{path}: expected lines {_LINE}, received none")
    if counts is not None:
        _check_counts(path, places, pairs, *counts)
    return pairs


def _pair(place, line, fields):
    match fields:
        case [name, first, second] if is_number(first) and is_number(second):
            return _image(name, first), _image(name, second), True
        case [name, first, other, second] if is_number(first) and is_number(second) and name != other:
            return _image(name, first), _image(other, second), False
        case _:
            raise ValueError(f"{place}: expected {_LINE}, received {quote(line)}")


def _image(name, number):
    return f"{name}/{name}_{int(number):04d}"


def _check_counts(path, places, pairs, num_folds, num_pairs):
    expected = 2 * num_folds * num_pairs
    if len(pairs) != expected:
        raise ValueError(
            f"{path}: expected {expected} pairs according to the first line "
            f"({num_folds} folds of 2 x {num_pairs}), received {len(pairs)}"
        )
    for number, (place, (*_, is_same)) in enumerate(zip(places, pairs, strict=True)):
        if is_same != (number % (2 * num_pairs) < num_pairs):
            kinds = ("two people", "one person")
            raise ValueError(
                f"{place}: expected a pair of {kinds[not is_same]}, received one of {kinds[is_same]}: "
                f"each fold has {num_pairs} pairs of one person, then {num_pairs} of two people"
            )
