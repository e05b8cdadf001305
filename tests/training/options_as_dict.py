"""Options as the flags that they come from."""

import dataclasses


def flat(options):
    """All values by flag, whatever their group."""
    values = {}
    for name, value in vars(options).items():
        values |= flat(value) if dataclasses.is_dataclass(value) else {name: value}
    return values
