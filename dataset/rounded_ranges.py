"""Ranges of an InsightFace set of so many records that float32, which stores them, rounds their numbers."""

import numpy as np

STORED = np.float32
EXACT = 1 << 24  # from here on, not every integer has its own float32
_NEAR = 256  # records around a rounded number, among which the right one is: of 2**32 records even


def first_identity(rounded, num_records, is_identity):
    """Where the identity records begin, by what the records around the rounded number are.

    Args:
        rounded: float, the number as stored.
        num_records: int, of the whole file.
        is_identity: function from a record's number to a bool.

    Returns:
        int.

    Raises:
        ValueError: they begin at no number that would be rounded to this one.
    """
    if np.isfinite(rounded):
        for key in range(max(2, int(rounded) - _NEAR), min(num_records, int(rounded) + _NEAR)):
            if STORED(key) == rounded and is_identity(key) and not is_identity(key - 1):
                return key
    raise ValueError(
        f"record 0: expected the first record without an image at about {rounded:.0f}, received images or "
        "none around it"
    )


def check_ranges(own_labels, ranges):
    """Checks that every range is that of the images with its label, but for rounding.

    Args:
        own_labels: int64 array `(num_images,)`, of the records 1, 2, ...
        ranges: float array `(num_identities, 2)`, first record of every identity and the one behind its
            last, as stored.

    Raises:
        ValueError: a range is not, or an identity's images are not in a row.
    """
    starts = np.flatnonzero(np.diff(own_labels, prepend=-1))
    labels = own_labels[starts]
    ends = np.append(starts[1:], len(own_labels))
    wrong = np.flatnonzero(labels >= len(ranges))
    if len(wrong):
        raise ValueError(
            f"record {starts[wrong[0]] + 1}: expected a label in [0, {len(ranges)}), "
            f"received {labels[wrong[0]]}"
        )
    expected = np.zeros((len(ranges), 2), np.int64)
    expected[labels, 0], expected[labels, 1] = starts + 1, ends + 1
    has_images = expected[:, 1] > 0
    # An identity without images has an empty range, anywhere.
    is_right = np.where(has_images, (STORED(expected) == ranges).all(axis=1), ranges[:, 0] == ranges[:, 1])
    wrong = np.flatnonzero(~is_right)
    if len(wrong):
        label, first = wrong[0], len(own_labels) + 1
        raise ValueError(
            f"record {first + label}: expected the range {expected[label].tolist()} that its images' own "
            f"labels give, or what it is rounded to, received {ranges[label].tolist()}"
        )
    # Of a label in two rows only the last is in `expected`.
    if len(starts) != np.count_nonzero(has_images):
        raise ValueError(
            f"expected the images of every identity in a row, received {len(starts)} rows of the images of "
            f"{np.count_nonzero(has_images)} identities"
        )
