"""Score a model on LFW, or on other sets of image pairs in the same formats.

python -m eval.test_lfw --data=lfw.np --model_path=output/models/iter_...
"""

if not __package__:
    raise SystemExit("Start this program in the project's folder: python -m eval.test_lfw")

import argparse
import dataclasses
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

import numpy as np

from common.files import file_sha256, write_json
from common.options import exit_on_errors, option, parse_options
from dataset.config import NPDATA_ORDERS, read_config
from dataset.pairs.image_pairs import read_pairs
from eval.embedding.engines import NUM_COMPARED, EngineOptions, load_engine
from eval.embedding.extractor import embed_pairs
from eval.scoring.distances import DISTANCES, pair_distances
from eval.scoring.insightface_protocol import VAL_FAR, evaluate_insightface
from eval.scoring.metrics import bootstrap_intervals, verification_metrics
from eval.scoring.verification import RULES, evaluate_pairs, even_folds, original_folds
from nets.importers.model_files import find_model, model_sha256

_FOLDS = {"even": even_folds, "original": original_folds}

# The flags that `--faithful` sets, with their rows in docs/fidelity.md.
FAITHFUL = {
    "threshold": "crossing",  # row 18
    "folds": "original",  # row 19
    "order": "bgr",  # row 24: an RGB file, fed as it is
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class LfwOptions:
    """Data, model and protocol."""

    data: tuple[Path, ...] | None = option(
        None, "lfw.np, or .bin files of InsightFace (default: [lfw] npdata of the config file)", nargs="+"
    )
    config: Path = option(Path("./config.ini"), "config file, read if there is no --data", metavar="FILE")
    model_path: Path = option(help="SavedModel, training checkpoint, or a net in any other format")
    faithful: bool = option(False, "set the flags marked (row N of docs/fidelity.md) as in the original")
    protocol: str = option(
        "folds",
        "insightface: with --flip, squared L2 distance, a sweep of thresholds, VAL at FAR 0.001",
        choices=("folds", "insightface"),
    )
    distance: str = option("cosine", "distance of two embeddings", choices=DISTANCES)
    threshold: str = option(
        "best",
        "how thresholds are found on the other folds: for the best accuracy, or by the original's crossing "
        "of sorted distances (row 18)",
        choices=RULES,
    )
    folds: str = option("even", "how pairs are divided, in order, into folds (row 19)", choices=tuple(_FOLDS))
    order: str | None = option(
        None,
        "order of the channels in a .np file (row 24; default: [lfw] npdata_order, or rgb with --data)",
        choices=NPDATA_ORDERS,
    )
    flip: bool = option(False, "add the embedding of each image's mirror image (row 31)")
    batch_size: int = option(64, "images at a time", minimum=1)
    name: str | None = option(None, "name of the set in the printed line (default: the file's name)")
    output: Path | None = option(None, "also write the scores to this JSON file", metavar="FILE")
    engine: EngineOptions

    def problems(self) -> Iterator[str]:
        """Yields a sentence for each wrong value."""
        names = [path.stem for path in self.data or ()]
        if self.name is not None and len(names) > 1:
            yield "--name: it names one set, and --data gives several. Leave it out."
        elif len(set(names)) < len(names):
            yield f"--data: two sets have the same name: {', '.join(names)}. Rename a file."

    def completed(self) -> Self:
        """Returns these options with set and order of the config file if no set is given."""
        if self.data:
            return dataclasses.replace(self, order=self.order or "rgb")
        try:
            lfw = read_config(self.config).lfw
        except FileNotFoundError as error:
            raise FileNotFoundError(f"no --data is given, and {error}") from None
        if lfw.npdata is None:
            raise ValueError(f"{self.config}, [lfw]: no key npdata. Add it, or give --data.")
        return dataclasses.replace(self, data=(lfw.npdata,), order=self.order or lfw.npdata_order)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the program. Raises `SystemExit` with a message if the sets cannot be scored."""
    parser = argparse.ArgumentParser(
        prog="python -m eval.test_lfw", description=(__doc__ or "").splitlines()[0]
    )
    options = parse_options(parser, LfwOptions, argv, faithful=FAITHFUL)
    with exit_on_errors("eval.test_lfw"):
        _score_sets(options.completed())


def _score_sets(options):
    # The model and all sets are checked before the first set is scored.
    model_path = find_model(options.model_path)
    sets = {options.name or path.stem: read_pairs(path, options.order) for path in options.data}
    flip = options.flip or options.protocol == "insightface"  # It includes the mirror image.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    engine, models = options.engine.chosen_for(model_path), {}
    for pairs in sets.values():
        size, faces = pairs.image_size, pairs.batch(0, NUM_COMPARED)
        if size not in models:
            models[size], description = load_engine(engine, model_path, size, faces, 2 * len(pairs))
            print(description, file=sys.stderr)  # Standard output has only the scores.
    score = {"folds": _score_folds, "insightface": _score_insightface}[options.protocol]
    scores = {}
    for path, (name, pairs) in zip(options.data, sets.items(), strict=True):
        model = models[pairs.image_size]
        embeddings = embed_pairs(model, pairs, options.batch_size, progress=True, flip=flip)
        scores[name] = {
            "data": {"path": str(path), "sha256": file_sha256(path)},
            "engine": {**dataclasses.asdict(engine), "version": engine.version},
            "num_pairs": len(pairs),
            **score(name, *embeddings, pairs.is_same, options),
        }
    if options.output:
        content = {
            "model": {"path": str(model_path), "sha256": model_sha256(model_path)},
            "protocol": options.protocol,
            "flip": flip,
            "faithful": options.faithful,
            "sets": scores,
        }
        write_json(options.output, content)


def _score_folds(name, first, second, is_same, options):
    distances = pair_distances(first, second, options.distance)
    result = evaluate_pairs(distances, is_same, options.threshold, folds=_FOLDS[options.folds](is_same))
    metrics = {"accuracy": result.accuracy, **verification_metrics(distances, is_same)}
    # The file does not say whose images they are, so only the accuracy gets an interval.
    intervals = bootstrap_intervals(distances, is_same, fold_accuracies=result.fold_accuracies)
    print(result.summary(name))
    print(f"Threshold ({options.distance}, {options.threshold}) : {result.threshold:.5f}")
    shown = {metric: "-" if value is None else f"{value:.5f}" for metric, value in metrics.items()}
    print("  ".join(f"{metric} {value}" for metric, value in shown.items()))
    return {
        "distance": options.distance,
        "rule": options.threshold,
        "folds": options.folds,
        **_by_fold(result),
        "metrics": metrics,
        "intervals": intervals,
    }


def _score_insightface(name, first, second, is_same, _options):
    embeddings = np.stack([first, second], axis=1).reshape(-1, first.shape[1])
    result = evaluate_insightface(embeddings, is_same)
    print(result.summary(name))
    print(f"Threshold (squared L2, insightface) : {result.threshold:.5f}")
    print(f"VAL on {name} : {result.val:.5f}+-{result.val_std:.5f} @ FAR={result.val_far:.5f}")
    return {
        "accuracy": result.accuracy,
        **_by_fold(result),
        "val": {"tar": result.val, "std": result.val_std, "far": result.val_far, "asked_far": VAL_FAR},
    }


def _by_fold(result):
    names = ("std", "threshold", "fold_accuracies", "fold_thresholds")
    return {name: getattr(result, name) for name in names}


if __name__ == "__main__":
    main()
