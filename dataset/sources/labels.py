"""What the labels of a set of images must satisfy."""

import logging

import numpy as np

logger = logging.getLogger(__name__)

LARGEST_LABEL = 2**31 - 1


def count_identities(labels, path):
    """The number of identities, which is the largest label + 1; warns of labels that no image has.

    Args:
        labels: int array, shape `(num_images,)`.
        path: what to name in messages.

    Returns:
        int > 0.

    Raises:
        ValueError: no labels, or one that is not in `[0, 2**31)`.
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
