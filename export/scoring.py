"""Compares an exported file with its source net, on pairs of faces."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dataset.pairs.image_pairs import PairSet
from eval.embedding.engines import EmbeddingModel
from eval.embedding.extractor import embed_pairs
from eval.scoring.distances import pair_distances
from eval.scoring.metrics import bootstrap_samples, interval_of, verification_metrics
from eval.scoring.people import identity_of, name_images
from eval.scoring.verification import evaluate_pairs

_BATCH_SIZES = (1, 32)  # batch sizes to measure the speed of
_SECONDS = 1.0  # duration of each speed measurement
_NUM_RESAMPLES = 1000


@dataclass(frozen=True, eq=False)
class PairScores:
    """Embeddings of pairs by one model, and its scores.

    Attributes:
        units: float32 `(2 * num_pairs, dim)`, unit embeddings, all first faces before all second ones.
        distances: float `(num_pairs,)`, cosine distances; see `eval.scoring.distances.pair_distances`.
        identities: two arrays `(num_pairs,)`, the identities of the first and of the second faces.
        metrics: accuracy, EER, AUC and TAR at FAR, by name; `None` where there are too few pairs.
        samples: bootstrap samples of each metric, by name: float `(num_resamples,)`; see
            `eval.scoring.metrics.bootstrap_samples`.
    """

    units: np.ndarray
    distances: np.ndarray
    identities: tuple[np.ndarray, np.ndarray]
    metrics: dict[str, float | None]
    samples: dict[str, np.ndarray]


@dataclass(frozen=True)
class Difference:
    """The difference between a metric of a file and that of its net.

    Attributes:
        value: the metric of the file minus that of the net.
        interval: 95 % interval of `value`. Each bootstrap sample draws the same pairs for both.
    """

    value: float
    interval: tuple[float, float]


@dataclass(frozen=True, eq=False)
class ModelComparison:
    """The comparison of an exported file with its net.

    Attributes:
        largest_difference: largest absolute difference between components of the unit embeddings.
        smallest_cosine: smallest cosine between an image's embedding by the net and by the file.
        metrics: `(value of the net, value of the file)` by name.
        differences: difference of each metric, by name; metrics with too few pairs are left out.
    """

    largest_difference: float
    smallest_cosine: float
    metrics: dict[str, tuple[float | None, float | None]]
    differences: dict[str, Difference]


def score_model(model: EmbeddingModel, pairs: PairSet) -> PairScores:
    """Embeds the pairs and computes all metrics."""
    first, second = embed_pairs(model, pairs)
    distances = pair_distances(first, second, "cosine")
    result = evaluate_pairs(distances, pairs.is_same)
    names = name_images(pairs.digests(), pairs.is_same)
    one, other = np.vectorize(identity_of)(names).T
    samples = bootstrap_samples(
        distances,
        pairs.is_same,
        fold_accuracies=result.fold_accuracies,
        identities=(one, other),
        num_resamples=_NUM_RESAMPLES,
    )
    units = np.concatenate([first, second])
    return PairScores(
        units=units / np.linalg.norm(units, axis=1, keepdims=True),
        distances=distances,
        identities=(one, other),
        metrics={"accuracy": result.accuracy, **verification_metrics(distances, pairs.is_same)},
        samples=samples,
    )


def compare(reference: PairScores, exported: PairScores) -> ModelComparison:
    """Compares the scores of a file with those of its net, on the same pairs."""
    return ModelComparison(
        largest_difference=float(np.abs(exported.units - reference.units).max()),
        smallest_cosine=float((exported.units * reference.units).sum(axis=1).min()),
        metrics={name: (value, exported.metrics[name]) for name, value in reference.metrics.items()},
        differences=dict(_differences(reference, exported)),
    )


def describe(comparison: ModelComparison, speeds: dict[int, float]) -> Iterator[str]:
    """Yields the lines to print.

    Args:
        comparison: from `compare`.
        speeds: images per second by batch size, from `measure_speeds`.
    """
    yield f"Largest difference of unit embeddings : {comparison.largest_difference:.1e}"
    yield f"Smallest cosine to the net's embedding : {comparison.smallest_cosine:.6f}"
    yield f"{'':14}{'net':>10}{'file':>10}{'difference':>12}  95 % interval"
    for name, values in comparison.metrics.items():
        row = f"{name:14}" + "".join(f"{'-':>10}" if one is None else f"{one:10.5f}" for one in values)
        if difference := comparison.differences.get(name):
            low, high = difference.interval
            row += f"{difference.value:+12.5f}  [{low:+.5f}, {high:+.5f}]"
        yield row
    yield "Images per second : " + ", ".join(f"{speed:.0f} at batch {size}" for size, speed in speeds.items())


def measure_speeds(model: EmbeddingModel, faces: np.ndarray) -> dict[int, float]:
    """Returns the model's speed in images per second, by batch size.

    Args:
        model: the model to measure.
        faces: uint8 `(n, height, width, 3)`, repeated to fill a batch.
    """
    return {size: _speed(model, faces, size) for size in _BATCH_SIZES}


def _differences(reference, exported):
    for name, samples in reference.samples.items():
        value = exported.metrics[name] - reference.metrics[name]
        yield name, Difference(value, interval_of(exported.samples[name] - samples))


def _speed(model, faces, batch_size):
    batch = np.resize(faces, (batch_size, *faces.shape[1:]))
    model.embed(batch)
    start, count = time.perf_counter(), 0
    while (passed := time.perf_counter() - start) < _SECONDS:
        model.embed(batch)
        count += batch_size
    return count / passed
