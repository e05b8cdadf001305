"""Compares an exported file with the net that it was made from, on pairs of faces."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dataset.pairs.image_pairs import PairSet
from eval.embedding.engines import EmbeddingModel
from eval.embedding.extractor import embed_pairs
from eval.scoring.distances import pair_distances
from eval.scoring.metrics import bootstrap_intervals, verification_metrics
from eval.scoring.verification import VerificationResult, evaluate_pairs

_BATCH_SIZES = (1, 32)  # whose speed is measured
_SECONDS = 1.0  # of each measurement


@dataclass(frozen=True)
class ModelComparison:
    """An exported file compared with its net.

    Attributes:
        largest_difference: of the numbers of unit embeddings.
        smallest_cosine: between the two embeddings of an image.
        reference, exported: accuracies on the pairs, by fold.
        metrics: EER, AUC and TAR at FAR of both, by name; `None` where there are too few pairs.
        difference: accuracy of the file less that of the net; negative if the file is worse.
        interval: of the difference, from resampling the folds of both together.
        speeds: images per second of the file, by batch size.
    """

    largest_difference: float
    smallest_cosine: float
    reference: VerificationResult
    exported: VerificationResult
    metrics: dict[str, tuple[float | None, float | None]]
    difference: float
    interval: tuple[float, float]
    speeds: dict[int, float]


def compare_models(reference: EmbeddingModel, exported: EmbeddingModel, pairs: PairSet) -> ModelComparison:
    """Embeds the pairs with both models and compares embeddings and scores."""
    both = [embed_pairs(model, pairs) for model in (reference, exported)]
    units = [_units(np.concatenate(embeddings)) for embeddings in both]
    distances = [pair_distances(first, second, "cosine") for first, second in both]
    results = [evaluate_pairs(values, pairs.is_same) for values in distances]
    metrics = [verification_metrics(values, pairs.is_same) for values in distances]
    by_fold = np.subtract(results[1].fold_accuracies, results[0].fold_accuracies)
    intervals = bootstrap_intervals(distances[0], pairs.is_same, fold_accuracies=by_fold)
    return ModelComparison(
        largest_difference=float(np.abs(units[1] - units[0]).max()),
        smallest_cosine=float((units[0] * units[1]).sum(axis=1).min()),
        reference=results[0],
        exported=results[1],
        metrics={name: (metrics[0][name], metrics[1][name]) for name in metrics[0]},
        difference=float(by_fold.mean()),
        interval=intervals["accuracy"],
        speeds={size: _speed(exported, pairs.batch(0, 2), size) for size in _BATCH_SIZES},
    )


def describe(comparison: ModelComparison) -> Iterator[str]:
    """Yields the lines to print."""
    yield f"Largest difference of unit embeddings : {comparison.largest_difference:.1e}"
    yield f"Smallest cosine to the net's embedding : {comparison.smallest_cosine:.6f}"
    rows = {"accuracy": (comparison.reference.accuracy, comparison.exported.accuracy), **comparison.metrics}
    yield f"{'':14}{'net':>10}{'file':>10}"
    for name, values in rows.items():
        cells = (f"{'-':>10}" if value is None else f"{value:10.5f}" for value in values)
        yield f"{name:14}" + "".join(cells)
    low, high = comparison.interval
    yield f"Accuracy, file less net : {comparison.difference:+.5f} [{low:+.5f}, {high:+.5f}]"
    speeds = ", ".join(f"{speed:.0f} at batch {size}" for size, speed in comparison.speeds.items())
    yield f"Images per second : {speeds}"


def _units(embeddings):
    return embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)


def _speed(model, faces, batch_size):
    batch = np.resize(faces, (batch_size, *faces.shape[1:]))
    model.embed(batch)
    start, count = time.perf_counter(), 0
    while (passed := time.perf_counter() - start) < _SECONDS:
        model.embed(batch)
        count += batch_size
    return count / passed
