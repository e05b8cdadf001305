"""From a name on the command line to a loss layer."""

import importlib

from .variants import LOSSES


def build_loss(name, num_identities, seed=0, label_smoothing=0.0, sample_rate=1.0, sharded=False, **given):
    """Makes the loss layer of a name.

    Args:
        name: a key of `losses.variants.LOSSES`.
        num_identities: int > 0.
        seed: int for the initial centres. Defaults to `0`.
        label_smoothing: float in `[0, 1)`. Defaults to `0.0`.
        sample_rate: float in `(0, 1]`, see `losses.centre_layer.CentreLayer`. Defaults to `1.0`.
        sharded: bool, see there. Defaults to `False`.
        **given: arguments of the loss; `None` stands for the loss's own default.

    Returns:
        The layer, not built yet.

    Raises:
        ValueError: there is no such loss, it has no such argument, or an argument is out of range.

    Example:

    >>> build_loss("arcface", 10, margin=0.3, scale=None).scale
    64.0
    """
    if name not in LOSSES:
        raise ValueError(f"--loss: expected one of {', '.join(LOSSES)}, received {name}")
    loss = LOSSES[name]
    given = {argument: value for argument, value in given.items() if value is not None}
    for argument in given:
        if argument not in loss["arguments"]:
            takes = ", ".join(loss["arguments"]) or "no arguments"
            raise ValueError(f"--loss {name}: has no {argument}; it takes {takes}")
    layer = getattr(importlib.import_module(loss["module"], __package__), loss["class"])
    shared = {
        "seed": seed,
        "label_smoothing": label_smoothing,
        "sample_rate": sample_rate,
        "sharded": sharded,
    }
    return layer(num_identities, **shared, **loss["fixed"], **given)
