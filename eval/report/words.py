"""Formats words and numbers for the pages of a report."""

import math
from collections.abc import Collection
from datetime import date

from eval.scoring.evaluation_run import InputFrames, MethodScores, Scores
from eval.scoring.insightface_protocol import VAL_FAR, VAL_NAME
from eval.scoring.metrics import FARS, tar_name

NO_VALUE = "–"
_DIGITS = 4  # of a value without an interval
_SINGLE_METRICS = {"eer": "EER", "auc": "AUC", VAL_NAME: f"VAL at FAR {VAL_FAR:g}"}
_TAR_NAMES = {tar_name(far): f"{far:g}" for far in FARS}

METHODS = {  # a short name and a sentence for each method
    "cosine": ("cosine", "The distance of two images is 1 minus the cosine of their embeddings."),
    "L2": ("L2", "The distance of two images is the length of the difference of their embeddings."),
    "SSD": ("SSD", "The distance of two images is the squared length of the difference of their embeddings."),
    "squared L2": (
        "squared L2",
        "The distance of two images is the squared length of the difference of their unit embeddings.",
    ),
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
    "insightface": "the best of 0, 0.01 … 3.99 on the other folds, as in InsightFace",
}
FOLDS = {
    "official": "the official splits",
    "position": "by position in the file, as in the original",
    "even": "ten equal parts of the genuine and of the impostor pairs",
    "original": "sized by the number of genuine pairs, as in the original",
    "insightface": "ten equal parts of the file",
}
ERROR_FILTERS = {
    "none": "all pairs are used",
    "both": "pairs with a wrong video are left out",
    "positives": "genuine pairs with a wrong video are left out",
}


def method_name(method: str) -> str:
    """Returns the name of a method in a table or a legend."""
    return METHODS[method][0] if method in METHODS else method.replace("_", " ")


def method_sentence(method: str) -> str:
    """Returns the sentence that explains a method."""
    return METHODS[method][1] if method in METHODS else f"Method {method}."


def distance_name(methods: Collection[str]) -> str:
    """Returns the label of an axis for distances by these methods."""
    names = {method if method in ("L2", "SSD", "squared L2") else "cosine" for method in methods}
    return f"{' or '.join(sorted(names))} distance"


def model_facts(scores: Scores) -> list[str]:
    """Returns net, steps and date of the model, as far as the run knows them."""
    model = scores.model
    if model is None:
        return []
    day = date.fromisoformat(model.date)
    facts = [model.net, model.steps is not None and f"{model.steps:,} steps", f"{day.day} {day:%B %Y}"]
    return [fact for fact in facts if fact]


def title(scores: Scores) -> str:
    """Returns the model's name, with net, steps and date, and the set."""
    facts = ", ".join(model_facts(scores))
    return f"{scores.name} ({facts}): {scores.set}" if facts else f"{scores.name}: {scores.set}"


def digits(interval: tuple[float, float] | None) -> int:
    """Returns how many decimals of a value to show: enough for two digits of the width of its interval."""
    width = interval[1] - interval[0] if interval else 0
    # The interval of a perfect score has the width of a rounding error.
    return _DIGITS if width < 1e-6 else min(max(1 - math.floor(math.log10(width)), 2), 6)


def digits_of_count(num_pairs: int) -> int:
    """Returns how many decimals are needed to distinguish fractions of this many pairs."""
    return max(len(str(num_pairs - 1)), 1)


def rate(value: float | None, digits: int = _DIGITS) -> str:
    """Formats a fraction, or returns a dash for `None`."""
    return NO_VALUE if value is None else f"{value:.{digits}f}"


def count(value: float | None) -> str:
    """Formats a number of things, which may be a median, or returns a dash for `None`."""
    return NO_VALUE if value is None else f"{value:,.1f}".removesuffix(".0")


def signed(value: float, digits: int = _DIGITS) -> str:
    """Formats a difference of fractions, with its sign."""
    return f"{value:+.{digits}f}".replace("-", "−")


def metric_columns(
    methods: Collection[MethodScores],
) -> tuple[list[str], list[tuple[str, list[str]]], bool]:
    """Returns the columns of metrics, without those that no method has.

    Returns:
        The names of the metrics, the heads of their columns, and whether a method lacks one of them.
    """
    measured = {name for method in methods for name, value in method.metrics.items() if value is not None}
    single, fars = ([name for name in names if name in measured] for names in (_SINGLE_METRICS, _TAR_NAMES))
    heads: list[tuple[str, list[str]]] = [(_SINGLE_METRICS[name], []) for name in single]
    if fars:
        heads.append(("TAR at FAR", [_TAR_NAMES[name] for name in fars]))
    names = [*single, *fars]
    return names, heads, any(method.metrics.get(name) is None for method in methods for name in names)


def fold_name(scores: Scores) -> str:
    """Returns the word for a fold. The official folds are called splits."""
    return "split" if scores.folds == "official" else "fold"


def describe_frames(frames: InputFrames) -> str:
    """Describes how frames were prepared for the model."""
    height, width = frames.image_size
    crop = f"cropped to {frames.crop[0]} × {frames.crop[1]}" if frames.crop else "no crop"
    return f"{height} × {width}, {crop}, {'with' if frames.flip else 'no'} mirror images"
