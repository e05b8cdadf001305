"""How often a run does what."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Intervals:
    """Steps between two of each; all > 0.

    Attributes:
        show_info: progress lines.
        summary: TensorBoard scalars.
        validate: validations.
        save: checkpoints to go on from.
        export: SavedModels that are written whatever their score.

    Raises:
        ValueError: one of them is less than 1.
    """

    show_info: int
    summary: int
    validate: int
    save: int
    export: int

    def __post_init__(self):
        for name, value in vars(self).items():
            if value < 1:
                raise ValueError(f"interval {name}: expected at least 1 step, received {value}")

    def due(self, step):
        """Which are due after `step` steps: dict from names to bool."""
        return {name: step % interval == 0 for name, interval in vars(self).items()}
