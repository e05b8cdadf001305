"""Loss layers by name."""

import importlib
from typing import Any

from .variants import COMMON_ARGUMENTS, LOSSES


def build_loss(name: str, num_identities: int, seed: int = 0, **arguments: Any) -> Any:
    """Makes the loss layer with centres of this name, a key of `LOSSES`.

    The arguments are those of the loss and of `CentreLayer`. `None` stands for the loss's own default.

    Raises:
        ValueError: no loss has this name, it has no such argument, or an argument is out of range.
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
