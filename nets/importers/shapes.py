"""Compares the shapes of a file's tensors with those of a net."""

from collections.abc import Sequence

STRIDE = 16  # pixels per cell of the last feature map, in all convolutional nets that are imported
_NUM_SHOWN = 5
_LENGTH_SHOWN = 80

Shapes = dict[str, tuple[int, ...]]


def check_shapes(received: Shapes, expected: Shapes) -> None:
    """Raises a `ValueError` if a file lacks a tensor of a net or has it in another shape."""
    missing = [name for name in expected if name not in received]
    if missing:
        raise ValueError(
            f"expected {len(expected)} tensors of the net, {len(missing)} missing: {some(missing)}"
        )
    for name, shape in expected.items():
        if received[name] != shape:
            raise ValueError(f"{name}: expected shape {shape}, received {received[name]}")


def some(names: Sequence[str]) -> str:
    """Returns the first 5 names, and the number of the others, for a message."""
    num_others = len(names) - _NUM_SHOWN
    return ", ".join(name[:_LENGTH_SHOWN] for name in names[:_NUM_SHOWN]) + (
        f" and {num_others} more" if num_others > 0 else ""
    )
