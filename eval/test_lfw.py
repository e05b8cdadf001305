"""Scores a model on LFW, or any set of pairs in the same formats.

python -m eval.test_lfw --data=lfw.np --model_path=output/models/iter_...
"""

import argparse
import json
import os
from pathlib import Path

from dataset.atomic import atomic_file
from dataset.config import NPDATA_ORDERS
from dataset.pairs import read_pairs
from eval.verification import DISTANCES, RULES, evaluate_pairs, pair_distances


def main(argv=None):
    """The program; `SystemExit` with a message if there is nothing to score."""
    args = _parse_arguments(argv)
    try:
        _score(args)
    except (ValueError, OSError) as error:
        raise SystemExit(f"eval.test_lfw: {error}") from None


def _score(args):
    pairs = read_pairs(args.data, args.order)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # TensorFlow takes seconds to import: not for --help, nor to refuse a wrong file.
    from eval.extractor import embed_pairs
    from eval.face_model import load_face_model

    model = load_face_model(args.model_path, pairs.image_size)
    first, second = embed_pairs(model, pairs, args.batch_size, progress=True)
    distances = pair_distances(first, second, args.distance)
    result = evaluate_pairs(distances, pairs.is_same, args.threshold)
    print(result.summary(args.name))
    print(f"Threshold ({args.distance}, {args.threshold}) : {result.threshold:.5f}")
    if args.output:
        scores = {
            "data": str(args.data),
            "model": str(args.model_path),
            "num_pairs": len(pairs),
            "distance": args.distance,
            "rule": args.threshold,
            "accuracy": result.accuracy,
            "std": result.std,
            "threshold": result.threshold,
            "fold_accuracies": result.fold_accuracies,
        }
        args.output.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(args.output) as file:
            file.write(json.dumps(scores, indent=1).encode() + b"\n")


def _parse_arguments(argv):
    parser = argparse.ArgumentParser(prog="python -m eval.test_lfw", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="lfw.np, or an InsightFace .bin")
    parser.add_argument(
        "--model_path", type=Path, required=True, help="SavedModel, .keras file or training checkpoint"
    )
    parser.add_argument("--distance", choices=DISTANCES, default="cosine", help="(%(default)s)")
    parser.add_argument(
        "--threshold",
        choices=RULES,
        default="best",
        help="how a fold's threshold is found on the others: the best accuracy there, or the "
        "original's crossing of sorted distances (%(default)s)",
    )
    parser.add_argument(
        "--order", choices=NPDATA_ORDERS, default="rgb", help="of the channels in a .np file (%(default)s)"
    )
    parser.add_argument("--batch_size", type=int, default=64, help="(%(default)s)")
    parser.add_argument("--name", default="lfw", help="what the printed line calls the set (%(default)s)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="also write the scores as JSON")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
