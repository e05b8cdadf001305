"""Compares an exported file with the net that it was made from, on pairs of faces."""

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

_BATCH_SIZES = (1, 32)  # whose speed is measured
_SECONDS = 1.0  # of each measurement
_NUM_RESAMPLES = 1000


@dataclass(frozen=True, eq=False)
class PairScores:
    """Embeddings of pairs by one model, and its scores.

    Attributes:
        units: float32 `(2 * num_pairs, dim)`, unit embeddings, all first faces before all second ones.
        distances: float `(num_pairs,)`, see `eval.scoring.distances.pair_distances`.
        identities: of the first and of the second face of every pair, shape `(num_pairs,)` each.
        metrics: accuracy, EER, AUC and TAR at FAR by name; `None` where there are too few pairs.
        samples: float `(num_resamples,)` by the name of the metric, see `bootstrap_samples`.
    """

    units: np.ndarray
    distances: np.ndarray
    identities: tuple[np.ndarray, np.ndarray]
    metrics: dict[str, float | None]
    samples: dict[str, np.ndarray]


@dataclass(frozen=True)
class Difference:
    """Metric of a file less that of its net, and the interval from resampling the pairs of both together."""

    value: float
    interval: tuple[float, float]


@dataclass(frozen=True, eq=False)
class ModelComparison:
    """An exported file compared with its net.

    Attributes:
        largest_difference: of the numbers of unit embeddings.
        smallest_cosine: between the two embeddings of an image.
        metrics: of the net and of the file, by name.
        differences: by the name of the metric, for those that there are enough pairs for.
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
    """Compares a file with its net."""
    return ModelComparison(
        largest_difference=float(np.abs(exported.units - reference.units).max()),
        smallest_cosine=float((exported.units * reference.units).sum(axis=1).min()),
        metrics={name: (value, exported.metrics[name]) for name, value in reference.metrics.items()},
        differences=dict(_differences(reference, exported)),
    )


def describe(comparison: ModelComparison, speeds: dict[int, float]) -> Iterator[str]:
    """Yields the lines to print. The speeds are those of `measure_speeds`."""
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
    """Returns images per second by batch size. The faces are repeated to fill a batch."""
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
