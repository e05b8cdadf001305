"""Builds a loss by its name."""

import importlib
from typing import Any

from .variants import COMMON_ARGUMENTS, LOSSES


def build_loss(name: str, num_identities: int, seed: int = 0, **arguments: Any) -> Any:
    """Builds a loss with centres by its name.

    Args:
        name: a key of `LOSSES`, such as `"arcface"`.
        num_identities: number of identities, at least 1.
        seed: seed of the initial centres and of the samples.
        **arguments: the arguments in `LOSSES[name].arguments`, and `label_smoothing`, `sample_rate` and
            `sharded`. `None` stands for the default.

    Returns:
        The loss layer, a `CentreLayer`.

    Raises:
        ValueError: no loss has this name, the loss does not take an argument, or a value is out of range.

    Example:

    >>> from losses import build_loss
    >>> build_loss("cosface", num_identities=10, margin=0.35).margin
    0.35
    """
    if name not in LOSSES:
        raise ValueError(f"--loss: expected one of {', '.join(LOSSES)}, received {name}")
    loss = LOSSES[name]
    arguments = {argument: value for argument, value in arguments.items() if value is not None}
    for argument in arguments:
        if argument not in loss.arguments + COMMON_ARGUMENTS:
            takes = ", ".join(loss.arguments) or "no arguments"
            raise ValueError(f"--loss {name}: has no {argument}; it takes {takes}")
    layer = getattr(importlib.import_module(loss.module, __package__), loss.layer)
    return layer(num_identities, seed=seed, **loss.fixed, **arguments)
