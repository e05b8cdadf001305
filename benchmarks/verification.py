"""Compares our scoring of face pairs with plain loops over folds and thresholds.

    python -m benchmarks.verification

The made-up distances can nearly be separated, like those of a trained net. The loops are written like those
of the original and of InsightFace. The program checks that they give the same accuracies. With 600,000 pairs,
the loops would take too long, so only our code is measured. Its memory is the rise of the peak while it
scores 300,000 and 600,000 pairs of embeddings that are already in memory.
"""

import argparse
import functools
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks.comparison import Row, interleaved, medians, report
from benchmarks.many_identities import peak, resident
from eval.scoring.distances import pair_distances
from eval.scoring.insightface_protocol import evaluate_insightface
from eval.scoring.verification import evaluate_pairs, even_folds

DIM = 512


def main(argv=None):
    """Runs the program."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.verification", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "--pairs", type=int, default=6000, help="pairs to compare with loops (default: %(default)s)"
    )
    parser.add_argument(
        "--many_pairs", type=int, default=600_000, help="pairs to score without loops (default: %(default)s)"
    )
    parser.add_argument(
        "--rounds", type=int, default=3, metavar="N", help="number of measurements (default: %(default)s)"
    )
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.one:
        print(json.dumps(many(args.one)))
        return
    report(rows(args))


def rows(args):
    """Yields the rows of the table."""
    distances, is_same = made_up_distances(args.pairs)
    embeddings, _ = made_up_embeddings(args.pairs)
    folds = even_folds(is_same)
    ways = {
        "best threshold": (
            lambda: evaluate_pairs(distances, is_same, folds=folds).fold_accuracies,
            lambda: loop_over_thresholds(distances, is_same, folds),
        ),
        "crossing threshold": (
            lambda: evaluate_pairs(distances, is_same, "crossing", folds=folds).fold_accuracies,
            lambda: loop_of_the_original(distances, is_same, folds),
        ),
        "InsightFace's protocol": (
            lambda: evaluate_insightface(embeddings, is_same).fold_accuracies,
            lambda: loop_of_insightface(embeddings, is_same),
        ),
    }
    for name, (ours, loop) in ways.items():
        if not np.array_equal(ours(), loop()):
            raise ValueError(f"{name}: our accuracies differ from those of the loop")
        # Our code runs 10 times, because a single call is too short to time.
        seconds = medians(
            interleaved({"ours": functools.partial(repeat, ours, 10), "loop": loop}, args.rounds, warm_up=0)
        )
        mine = seconds["ours"] / 10
        yield Row(
            f"verification, {args.pairs:,} pairs, {name}",
            "a loop over folds and thresholds" if "cross" not in name else "the original's loop over ranks",
            "ms",
            1e3 * mine,
            1e3 * seconds["loop"],
            seconds["loop"] / mine,
            "at least 100" if name == "best threshold" else "",
        )

    half, whole = (measured(count) for count in (args.many_pairs // 2, args.many_pairs))
    for name in whole["seconds"]:
        yield Row(f"verification, {args.many_pairs:,} pairs, {name}", "", "s", whole["seconds"][name])
    yield Row(
        f"verification, {args.many_pairs:,} pairs, memory besides the embeddings",
        f"{args.many_pairs // 2:,} pairs",
        "MB",
        whole["megabytes"],
        half["megabytes"],
        whole["megabytes"] / half["megabytes"],
        "about 2",
    )


def repeat(function, times):
    """Calls a function `times` times."""
    for _ in range(times):
        function()


def measured(num_pairs):
    """Runs `many` in its own process, so that its peak of memory can be measured."""
    command = [sys.executable, "-m", "benchmarks.verification", "--one", str(num_pairs)]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout)


def many(num_pairs):
    """Measures the time and memory to score pairs of embeddings that are already in memory.

    Returns:
        dict: `seconds`, a dict by part of the work, and `megabytes`, how far memory rose above the start.
    """
    embeddings, is_same = made_up_embeddings(num_pairs)
    first, second = embeddings[0::2], embeddings[1::2]
    evaluate_pairs(*made_up_distances(100))  # Does all imports, so that they are not measured.
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak of memory
    seconds, before = {}, resident()
    start = time.perf_counter()
    distances = pair_distances(first, second, "cosine")
    seconds["distances"] = time.perf_counter() - start
    start = time.perf_counter()
    evaluate_pairs(distances, is_same)
    seconds["folds and thresholds"] = time.perf_counter() - start
    start = time.perf_counter()
    evaluate_insightface(embeddings, is_same)
    seconds["InsightFace's protocol with distances"] = time.perf_counter() - start
    return {"seconds": seconds, "megabytes": (peak() - before) / 1e6}


def made_up_distances(num_pairs, seed=0):
    """Makes distances of alternating genuine and impostor pairs.

    Returns:
        `(distances, is_same)`: float64 in [0, 2] and bool, both `(num_pairs,)`.
    """
    is_same = np.arange(num_pairs) % 2 == 0
    distances = np.random.default_rng(seed).normal(np.where(is_same, 0.6, 1.0), 0.1)
    return np.clip(distances, 0, 2), is_same


def made_up_embeddings(num_pairs, seed=0):
    """Makes embeddings of alternating genuine and impostor pairs, some of them hard.

    Returns:
        `(embeddings, is_same)`: float32 `(2 * num_pairs, DIM)` and bool `(num_pairs,)`.
    """
    rng = np.random.default_rng(seed)
    is_same = np.arange(num_pairs) % 2 == 0
    embeddings = rng.standard_normal((2 * num_pairs, DIM), np.float32)
    likeness = np.where(is_same, rng.uniform(0.2, 1, num_pairs), rng.uniform(0, 0.3, num_pairs))
    embeddings[1::2] += embeddings[0::2] * likeness[:, None].astype(np.float32)
    return embeddings, is_same


def loop_over_thresholds(distances, is_same, folds):
    """Computes the accuracy of each fold at the threshold that is best on the other folds.

    Like the loops of facenet and InsightFace, it tries one threshold after another with an array operation.
    The candidates are all thresholds that give different results, as in
    `eval.scoring.verification.best_threshold`.
    """
    accuracies = []
    for fold in np.unique(folds):
        others = folds != fold
        other_distances, same = distances[others], is_same[others]
        values = np.unique(other_distances)
        thresholds = [values[0], *(values[:-1] + (values[1:] - values[:-1]) / 2), np.nextafter(values[-1], 9)]
        right = [np.count_nonzero((other_distances < threshold) == same) for threshold in thresholds]
        best = np.flatnonzero(np.array(right) == max(right))
        threshold = thresholds[best[(best.size - 1) // 2]]
        accuracies.append(np.mean((distances[~others] < threshold) == is_same[~others]))
    return accuracies


def loop_of_the_original(distances, is_same, folds):
    """Computes the accuracy of each fold at the threshold where the sorted distances cross.

    References:
    - margin-centre-face, `util/verification.py`: `test_kfold`, `find_threshold_sort`
    """
    accuracies = []
    for fold in range(max(folds) + 1):
        positives, negatives, right, count = [], [], 0, 0
        for distance, same, number in zip(distances, is_same, folds, strict=True):
            if number != fold:
                (positives if same else negatives).append(distance)
        threshold = 0
        for positive, negative in zip(sorted(positives), sorted(negatives, reverse=True), strict=False):
            if positive > negative:
                threshold = (positive + negative) / 2
                break
        for distance, same, number in zip(distances, is_same, folds, strict=True):
            if number == fold:
                right += distance < threshold if same else distance > threshold
                count += 1
        accuracies.append(right / count)
    return accuracies


def loop_of_insightface(embeddings, is_same):
    """Computes the accuracy of each fold, and does the work for VAL as well.

    References:
    - InsightFace_TF, `verification.py`: `calculate_roc`, `calculate_val`; here, distances are computed once
    """
    embeddings = embeddings / np.linalg.norm(embeddings.astype(np.float64), axis=1, keepdims=True)
    distances = np.square(embeddings[0::2] - embeddings[1::2]).sum(axis=1)
    folds = np.array_split(np.arange(is_same.size), 10)
    accuracies = []
    for fold in folds:
        others = np.setdiff1d(np.arange(is_same.size), fold)
        other_distances, same = distances[others], is_same[others]
        thresholds = np.arange(0, 4, 0.01)
        right = [np.mean((other_distances < threshold) == same) for threshold in thresholds]
        best = thresholds[np.argmax(right)]
        accuracies.append(np.mean((distances[fold] < best) == is_same[fold]))
        impostors = other_distances[~same]
        fars = [np.mean(impostors < threshold) for threshold in np.arange(0, 4, 0.001)]
        np.interp(1e-3, fars, np.arange(0, 4, 0.001))
    return accuracies


if __name__ == "__main__":
    main()
