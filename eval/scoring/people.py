"""Tells which people the videos or images of pairs show."""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import islice

import numpy as np

_MOST_PER_PERSON = 2


def identity_of(name: str) -> str:
    """Returns the person in the name of a video or an image, such as `Name` for `Name/3`."""
    return name.rpartition("/")[0] or name


def identities_of(
    names: Sequence[str], first: np.ndarray, second: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the people on both sides of pairs.

    Args:
        names: names of all videos or images.
        first, second: int, shape `(num_pairs,)`: positions in `names`.

    Returns:
        `(first people, second people)`, str `(num_pairs,)` each.
    """
    people = np.array([identity_of(name) for name in names])
    return people[first], people[second]


def name_images(digests: Sequence[str], is_same: np.ndarray) -> np.ndarray:
    """Makes up names for the images of pairs, such as `person 3f2a9c01/image 34`.

    The files have no names of people. Two images are known to show one person only if they are equal or form
    a genuine pair.

    Args:
        digests: hash of each image, two for each pair.
        is_same: bool, shape `(num_pairs,)`.

    Returns:
        str, shape `(num_pairs, 2)`.
    """
    parents = {digest: digest for digest in digests}  # Each person is a tree of images.

    def root(digest: str) -> str:
        while parents[digest] != digest:
            digest = parents[digest] = parents[parents[digest]]
        return digest

    for pair in np.flatnonzero(is_same).tolist():
        low, high = sorted(map(root, digests[2 * pair : 2 * pair + 2]))
        parents[high] = low
    names = [f"person {root(digest)[:8]}/image {number}" for number, digest in enumerate(digests)]
    return np.array(names).reshape(-1, 2)


def spread_over_people(
    pairs: Iterable[int], first: np.ndarray, second: np.ndarray, most: int
) -> Iterable[int]:
    """Returns the first pairs in order, but no more than two pairs of any person.

    Args:
        pairs: positions in `first` and `second`.
        first, second: names of the videos or images of all pairs.
        most: largest number of pairs to return.
    """
    return islice(_spread(pairs, first, second), most)


def _spread(pairs, first, second):
    times = Counter()
    for pair in pairs:
        people = {identity_of(str(names[pair])) for names in (first, second)}
        if all(times[person] < _MOST_PER_PERSON for person in people):
            times.update(people)
            yield pair
