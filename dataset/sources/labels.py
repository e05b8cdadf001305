"""Checks the labels of a source."""

import logging
from pathlib import Path

import numpy as np

logger = logging.getLogger(__name__)

LARGEST_LABEL = 2**31 - 1


def count_identities(labels: np.ndarray, path: Path) -> int:
    """Returns the largest label + 1, and warns if some identities have no image.

    Args:
        labels: int `(num_images,)`.
        path: file to name in messages.

    Raises:
        ValueError: there is no label, or one is not in `[0, 2**31)`.
    """
    if not len(labels):
        raise ValueError(f"{path}: expected at least one image, received none")
    for label in (labels.min(), labels.max()):
        if not 0 <= label <= LARGEST_LABEL:
            raise ValueError(f"{path}: expected labels in [0, {LARGEST_LABEL}], received {label}")
    num_identities = int(labels.max()) + 1
    missing = num_identities - len(np.unique(labels))
    if missing:
        logger.warning("%s: %d of %d identities have no image", path, missing, num_identities)
    return num_identities
