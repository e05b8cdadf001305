"""Scores a model on LFW, or on any sets of pairs in the same formats.

python -m eval.test_lfw --data=lfw.np --model_path=output/models/iter_...
"""

import argparse
import dataclasses
import os
import sys
from pathlib import Path

import numpy as np

from common.files import file_sha256, write_json
from common.flags import parse_flags
from dataset.config import NPDATA_ORDERS
from dataset.pairs.image_pairs import read_pairs
from eval.embedding.engines import add_engine_flags, describe_engine, engines_for
from eval.scoring.distances import DISTANCES, pair_distances
from eval.scoring.insightface_protocol import VAL_FAR, evaluate_insightface
from eval.scoring.metrics import bootstrap_intervals, verification_metrics
from eval.scoring.verification import RULES, evaluate_pairs, even_folds, original_folds
from nets.importers.model_files import find_model, model_sha256

_FOLDS = {"even": even_folds, "original": original_folds}
_PROTOCOLS = ("folds", "insightface")
_NUM_COMPARED = 16  # images that engines embed, to see whether they agree and which is faster

# What `--faithful` sets, each of which is a flag of its own; the rows are those of docs/fidelity.md.
FAITHFUL = {
    "threshold": "crossing",  # row 18
    "folds": "original",  # row 19
    "order": "bgr",  # row 24: an RGB file, fed as it is
}


def main(argv=None):
    """The program; `SystemExit` with a message if there is nothing to score."""
    args = _parse_arguments(argv)
    try:
        _score(args)
    except (ValueError, OSError) as error:
        raise SystemExit(f"eval.test_lfw: {error}") from None


def _score(args):
    names = [path.stem for path in args.data] if args.name is None else [args.name]
    if len(set(names)) < len(args.data):
        raise ValueError(f"--data: expected sets of different names, received {', '.join(names)}")
    # All sets are opened before the first one is scored, and the model before either.
    engines = engines_for(args.engine, args.precision)
    model_path = find_model(args.model_path)
    sets = {name: read_pairs(path, args.order) for name, path in zip(names, args.data, strict=True)}
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # TensorFlow takes seconds to import: not for --help, nor to refuse a wrong file.
    from eval.embedding.engines import load_engine
    from eval.embedding.extractor import embed_pairs

    models = {}
    for pairs in sets.values():
        if pairs.image_size not in models:
            some = pairs.batch(0, _NUM_COMPARED)
            models[pairs.image_size] = load_engine(model_path, pairs.image_size, engines, some)
    scores = {}
    for path, (name, pairs) in zip(args.data, sets.items(), strict=True):
        model, engine, rates = models[pairs.image_size]
        print(describe_engine(engine, rates), file=sys.stderr)  # the scores alone are what is read
        embeddings = embed_pairs(model, pairs, args.batch_size, progress=True, flip=args.flip)
        score = _score_insightface if args.protocol == "insightface" else _score_folds
        scores[name] = {
            "data": {"path": str(path), "sha256": file_sha256(path)},
            "engine": {**dataclasses.asdict(engine), "version": engine.version},
            "num_pairs": len(pairs),
            **score(name, *embeddings, pairs.is_same, args),
        }
    if args.output:
        content = {
            "model": {"path": str(model_path), "sha256": model_sha256(model_path)},
            "protocol": args.protocol,
            "flip": args.flip,
            "faithful": args.faithful,
            "sets": scores,
        }
        write_json(args.output, content)


def _score_folds(name, first, second, is_same, args):
    distances = pair_distances(first, second, args.distance)
    folds = _FOLDS[args.folds](is_same)
    result = evaluate_pairs(distances, is_same, args.threshold, folds=folds)
    metrics = {"accuracy": result.accuracy, **verification_metrics(distances, is_same)}
    # Such a file does not say whose images they are: of the metrics only accuracy gets an interval.
    intervals = bootstrap_intervals(distances, is_same, fold_accuracies=result.fold_accuracies)
    print(result.summary(name))
    print(f"Threshold ({args.distance}, {args.threshold}) : {result.threshold:.5f}")
    print(
        "  ".join(f"{metric} {'-' if value is None else f'{value:.5f}'}" for metric, value in metrics.items())
    )
    return {
        "distance": args.distance,
        "rule": args.threshold,
        "folds": args.folds,
        "std": result.std,
        "threshold": result.threshold,
        "fold_accuracies": result.fold_accuracies,
        "fold_thresholds": result.fold_thresholds,
        "metrics": metrics,
        "intervals": intervals,
    }


def _score_insightface(name, first, second, is_same, args):
    embeddings = np.stack([first, second], axis=1).reshape(-1, first.shape[1])
    result = evaluate_insightface(embeddings, is_same)
    print(f"Precision on {name} : {result.accuracy:.5f}+-{result.std:.5f}")
    print(f"Threshold (squared L2, insightface) : {result.threshold:.5f}")
    print(f"VAL on {name} : {result.val:.5f}+-{result.val_std:.5f} @ FAR={result.val_far:.5f}")
    return {
        "accuracy": result.accuracy,
        "std": result.std,
        "threshold": result.threshold,
        "fold_accuracies": result.fold_accuracies,
        "fold_thresholds": result.fold_thresholds,
        "val": {"tar": result.val, "std": result.val_std, "far": result.val_far, "asked_far": VAL_FAR},
    }


def _parse_arguments(argv):
    parser = argparse.ArgumentParser(
        prog="python -m eval.test_lfw",
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--data", type=Path, nargs="+", required=True, help="lfw.np, or .bin files of InsightFace"
    )
    parser.add_argument(
        "--model_path", type=Path, required=True, help="SavedModel, checkpoint, or any other form of a net"
    )
    parser.add_argument(
        "--faithful", action="store_true",
        help="as the original's script scores: sets the flags marked (row N of docs/fidelity.md)",
    )  # fmt: skip
    parser.add_argument(
        "--protocol", choices=_PROTOCOLS, default="folds",
        help="insightface: with --flip, squared L2 distance, a sweep of thresholds, VAL at FAR 0.001",
    )  # fmt: skip
    parser.add_argument("--distance", choices=DISTANCES, default="cosine", help="of two embeddings")
    parser.add_argument(
        "--threshold", choices=RULES, default="best",
        help="how a fold's threshold is found on the others: the best accuracy there, or the "
        "original's crossing of sorted distances (row 18)",
    )  # fmt: skip
    parser.add_argument("--folds", choices=_FOLDS, default="even", help="of the pairs in order (row 19)")
    parser.add_argument(
        "--order", choices=NPDATA_ORDERS, default="rgb", help="of the channels in a .np file (row 24)"
    )
    parser.add_argument("--flip", action="store_true", help="add each image's mirror image (row 31)")
    parser.add_argument("--batch_size", type=int, default=64, help="images at a time")
    add_engine_flags(parser)
    parser.add_argument("--name", help="what the printed line calls the set (default: the file's name)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="also write the scores as JSON")
    args = parse_flags(parser, argv, FAITHFUL)
    if args.name is not None and len(args.data) > 1:
        parser.error("--name: expected it with one set")
    args.flip |= args.protocol == "insightface"
    return args


if __name__ == "__main__":
    main()
