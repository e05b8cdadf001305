"""Words and numbers as the pages of a report show them."""

from eval.scoring.evaluation_run import InputFrames, Scores

NO_VALUE = "–"

METHODS = {  # -> a short name, and a sentence
    "mean": ("mean", "A video is the mean of its frames’ embeddings."),
    "normalised_mean": ("normalised mean", "A video is the mean of its unit embeddings, as in the original."),
    "norm_weighted": ("norm-weighted mean", "A video is the mean of its embeddings, weighted by length."),
    "geometric_median": ("geometric median", "A video is the geometric median of its unit embeddings."),
    "best_frames": ("best frames", "The distance of two videos is the distance of their nearest frames."),
    "mean_frames": ("mean of frames", "The distance of two videos is the mean over pairs of frames."),
    "median_frames": ("median of frames", "The distance of two videos is the median over pairs of frames."),
}
RULES = {
    "best": "the best accuracy on the other folds",
    "crossing": "where the sorted distances of the other folds cross, as in the original",
}
FOLDS = {"official": "the official splits", "position": "by position in the file, as in the original"}
ERROR_FILTERS = {
    "none": "all pairs count",
    "both": "pairs with a wrong video are left out",
    "positives": "genuine pairs with a wrong video are left out",
}


def method_name(method: str) -> str:
    """Returns the name of a method in a table or a legend."""
    return METHODS[method][0] if method in METHODS else method.replace("_", " ")


def method_sentence(method: str) -> str:
    """Returns the sentence that explains a method."""
    return METHODS[method][1] if method in METHODS else f"Method {method}."


def rate(value: float | None, digits: int = 4) -> str:
    """Returns a fraction, or a dash for `None`."""
    return NO_VALUE if value is None else f"{value:.{digits}f}"


def count(value: float | None) -> str:
    """Returns a number of things, which may be a median, or a dash for `None`."""
    return NO_VALUE if value is None else f"{value:,.1f}".removesuffix(".0")


def signed(value: float) -> str:
    """Returns a difference of fractions."""
    return f"{value:+.4f}".replace("-", "−")


def fold_name(scores: Scores) -> str:
    """Returns what a fold is called: the official ones are splits."""
    return "split" if scores.folds == "official" else "fold"


def describe_frames(frames: InputFrames) -> str:
    """Returns how frames went into the model."""
    height, width = frames.image_size
    crop = f"cropped to {frames.crop[0]} × {frames.crop[1]}" if frames.crop else "no crop"
    return f"{height} × {width}, {crop}, {'with' if frames.flip else 'no'} mirror images"
