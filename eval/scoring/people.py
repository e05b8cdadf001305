"""The people in pairs of videos or images."""

from collections import Counter
from collections.abc import Iterable
from itertools import islice

import numpy as np

_MOST_PER_PERSON = 2


def identity_of(name: str) -> str:
    """Returns the person in the name of a video or an image: all but the last part of `Name/number`."""
    return name.rpartition("/")[0] or name


def spread_over_people(
    pairs: Iterable[int], first: np.ndarray, second: np.ndarray, most: int
) -> Iterable[int]:
    """Returns the first pairs, in order, of which no more than two show the same person.

    Args:
        pairs: places in `first` and `second`.
        first, second: names of the videos or images of all pairs.
        most: number of pairs to return at most.
    """
    return islice(_spread(pairs, first, second), most)


def _spread(pairs, first, second):
    times = Counter()
    for pair in pairs:
        people = {identity_of(str(names[pair])) for names in (first, second)}
        if all(times[person] < _MOST_PER_PERSON for person in people):
            times.update(people)
            yield pair
