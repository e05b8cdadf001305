"""What a model is at fault for, in contrast to what it was given."""


class NotFiniteError(ValueError):
    """An embedding holds NaN or infinity: the fault of the model's weights, not of an image file."""
