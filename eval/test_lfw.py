"""Scores a model on LFW, or on other sets of image pairs in the same formats.

python -m eval.test_lfw --data=lfw.np --model_path=output/models/iter_...
"""

if not __package__:
    raise SystemExit("Start this program in the project's folder: python -m eval.test_lfw")

import argparse
import contextlib
import dataclasses
import logging
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from common.files import file_sha256, write_json
from common.options import exit_on_errors, option, parse_options
from dataset.config import NPDATA_ORDERS, read_config
from dataset.pairs.image_pairs import PairSet, read_pairs
from eval.embedding.engines import NUM_COMPARED, EngineOptions, load_engine
from eval.embedding.extractor import embed_pairs
from eval.report.run_folder import default_output, held_output, write_run_folder
from eval.scoring.distances import DISTANCES, pair_distances
from eval.scoring.evaluation import Evaluation, evaluate_distances
from eval.scoring.evaluation_run import ByErrorFilter, InputFile, InputFrames, Inputs, Scores
from eval.scoring.insightface_protocol import VAL_FAR, VAL_NAME, evaluate_insightface
from eval.scoring.people import name_images
from eval.scoring.verification import IMAGE_FOLDS, RULES, ScoredLine, VerificationResult, evaluate_pairs
from nets.importers.model_files import describe_model, find_model, model_sha256

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
    config: Path = option(Path("./config.ini"), "config file, read only without --data", metavar="FILE")
    model_path: Path = option(
        help="SavedModel, training checkpoint, or a .keras, .onnx, .tflite, .xml, .pth or TensorFlow 1 file"
    )
    faithful: bool = option(
        False, "score as the original does: sets the flags marked (row N), see that row of docs/fidelity.md"
    )
    protocol: str = option(
        "folds",
        "how to score: folds, by the flags below; or insightface, with mirror images, squared L2 distance, "
        "a sweep of thresholds, and VAL at FAR 0.001",
        choices=("folds", "insightface"),
    )
    distance: str = option("cosine", "distance of two embeddings", choices=DISTANCES)
    threshold: str = option(
        "best",
        "how to find the threshold of a fold on the other folds: best, for the best accuracy; or crossing, "
        "where the sorted distances cross, as in the original (row 18)",
        choices=RULES,
    )
    folds: str = option(
        "even",
        "how to divide the pairs, in order, into folds: even, ten equal parts of each kind; or original, "
        "sized by the number of genuine pairs (row 19)",
        choices=tuple(IMAGE_FOLDS),
    )
    order: str | None = option(
        None,
        "order of the channels in a .np file (row 24; default: [lfw] npdata_order, or rgb with --data)",
        choices=NPDATA_ORDERS,
    )
    flip: bool = option(False, "add the embedding of each image's mirror image")
    batch_size: int = option(64, "images to embed at a time", minimum=1)
    name: str | None = option(None, "name of the set in the printed line (default: the file's name)")
    output: Path | None = option(
        None,
        "folder for scores, pictures and report; with several sets, it gets one such folder for each set. A "
        "name that ends in .json writes only the scores, to this file (default: output/SET/MODEL)",
        metavar="PATH",
    )
    engine: EngineOptions

    def problems(self) -> Iterator[str]:
        """Yields a sentence for each wrong value."""
        names = [path.stem for path in self.data or ()]
        if self.name is not None and len(names) > 1:
            yield "--name: names one set, but --data gives several. Leave out --name."
        elif len(set(names)) < len(names):
            yield f"--data: two sets have the same name: {', '.join(names)}. Rename a file."

    @property
    def writes_json(self) -> bool:
        """True if the output is a file with only the scores."""
        return self.output is not None and self.output.suffix == ".json"

    def run_folder(self, name: str) -> Path:
        """Returns the folder of the run of a set."""
        if self.output is None:
            return default_output(name, self.model_path, self.faithful)
        return self.output if len(self.data or ()) == 1 else self.output / name

    def completed(self) -> Self:
        """Returns these options, with set and channel order of the config file if `data` is not given.

        Raises:
            FileNotFoundError: there is no config file.
            ValueError: the config file names no set.
        """
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
    logging.basicConfig(format="%(message)s")
    logging.getLogger("common").setLevel(logging.INFO)  # progress
    with exit_on_errors("eval.test_lfw"):
        options = options.completed()
        with contextlib.ExitStack() as outputs:
            for path in () if options.writes_json else options.data or ():
                outputs.enter_context(held_output(options.run_folder(options.name or path.stem)))
            _score_sets(options, shlex.join(sys.argv[1:] if argv is None else argv))


@dataclasses.dataclass(frozen=True, eq=False)
class _SetScores:
    """The scores of a set, for the JSON file and for a run."""

    json: dict[str, Any]
    protocol: dict[str, str]
    evaluation: Evaluation


def _score_sets(options, command):
    # The model and all sets are checked before the first set is scored.
    model_path = find_model(options.model_path)
    sets = {options.name or path.stem: read_pairs(path, options.order) for path in options.data}
    flip = options.flip or options.protocol == "insightface"  # This protocol includes mirror images.
    engine, models = options.engine.chosen_for(model_path), {}
    for pairs in sets.values():
        size, faces = pairs.image_size, pairs.batch(0, NUM_COMPARED)
        if size not in models:
            models[size], description = load_engine(engine, model_path, size, faces, 2 * len(pairs))
            print(description, file=sys.stderr)  # Standard output gets only the scores.
    score = {"folds": _score_folds, "insightface": _score_insightface}[options.protocol]
    model = InputFile(str(model_path), model_sha256(model_path))
    json_sets = {}
    for path, (name, pairs) in zip(options.data, sets.items(), strict=True):
        net = models[pairs.image_size]
        embeddings = embed_pairs(net, pairs, options.batch_size, progress=True, flip=flip)
        images = InputFrames(str(path), file_sha256(path), pairs.image_size, crop=None, flip=flip)
        scored = score(name, *embeddings, pairs, options)
        json_sets[name] = {
            "data": {"path": images.path, "sha256": images.sha256},
            "engine": {**dataclasses.asdict(engine), "version": engine.version},
            "num_pairs": len(pairs),
            **scored.json,
        }
        if not options.writes_json:
            description = describe_model(model_path)
            scores = Scores(
                name=description.name,
                set=name,
                faithful=options.faithful,
                command=f"python -m eval.test_lfw {command}",
                versions=engine.package_versions,
                inputs=Inputs(model, splits=None, ytf_error=None, frames=images),
                engine=engine,
                model=description,
                coverage=None,
                error_filter="none",
                error_match="exact",
                **scored.protocol,
                **{part: getattr(scored.evaluation, part) for part in Evaluation.SCORES},
            )
            report = _write_run(options.run_folder(name), scores, scored.evaluation, pairs)
            print(f"Report : {report}")
    if options.writes_json:
        content = {
            "model": dataclasses.asdict(model),
            "protocol": options.protocol,
            "flip": flip,
            "faithful": options.faithful,
            "sets": json_sets,
        }
        write_json(options.output, content)


def _write_run(folder: Path, scores: Scores, evaluation: Evaluation, pairs: PairSet) -> Path:
    names = np.stack([evaluation.pairs.first, evaluation.pairs.second], axis=1).ravel().tolist()
    numbers = {name: number for number, name in enumerate(names)}

    def column(name: str, _num_faces: int) -> np.ndarray:
        return pairs.batch(numbers[name], numbers[name] + 1)[0]

    return write_run_folder(folder, scores, evaluation.pairs, column)


def _score_folds(name, first, second, pairs, options):
    distances = pair_distances(first, second, options.distance)
    folds = IMAGE_FOLDS[options.folds](pairs.is_same)
    result = evaluate_pairs(distances, pairs.is_same, options.threshold, folds=folds)
    protocol = {"method": options.distance, "rule": options.threshold, "folds": options.folds}
    evaluation = _evaluation(name, options.distance, distances, pairs, folds, result)
    scores = evaluation.methods[options.distance]
    print(result.summary(name))
    print(f"Threshold ({options.distance}, {options.threshold}) : {result.threshold:.5f}")
    shown = {metric: "-" if value is None else f"{value:.5f}" for metric, value in scores.metrics.items()}
    print("  ".join(f"{metric} {value}" for metric, value in shown.items()))
    json = {
        "distance": options.distance,
        "rule": options.threshold,
        "folds": options.folds,
        **_by_fold(result),
        "metrics": scores.metrics,
        "intervals": scores.intervals,
    }
    return _SetScores(json, protocol, evaluation)


def _score_insightface(name, first, second, pairs, _options):
    embeddings = np.stack([first, second], axis=1).reshape(-1, first.shape[1])
    result = evaluate_insightface(embeddings, pairs.is_same)
    method, val = "squared L2", {VAL_NAME: result.val}
    evaluation = _evaluation(name, method, result.distances, pairs, result.folds, result, val)
    print(result.summary(name))
    print(f"Threshold (squared L2, insightface) : {result.threshold:.5f}")
    print(f"VAL on {name} : {result.val:.5f}+-{result.val_std:.5f} @ FAR={result.val_far:.5f}")
    json = {
        "accuracy": result.accuracy,
        **_by_fold(result),
        "val": {"tar": result.val, "std": result.val_std, "far": result.val_far, "asked_far": VAL_FAR},
    }
    return _SetScores(json, {"method": method, "rule": "insightface", "folds": "insightface"}, evaluation)


def _evaluation(
    name: str,
    method: str,
    distances: np.ndarray,
    pairs: PairSet,
    folds: np.ndarray,
    result: VerificationResult,
    more_metrics: dict[str, float] | None = None,
) -> Evaluation:
    """Returns the parts of a run. Its three lines are the same, because no pair is listed as wrong."""
    folds = np.where(folds >= 0, folds + 1, folds)  # counted from 1, like the official splits
    line = ScoredLine(name, np.ones(len(pairs), bool), folds, result)
    first, second = name_images(pairs.digests(), pairs.is_same).T
    return evaluate_distances(
        {method: distances},
        lambda _distances: ByErrorFilter(line, line, line),
        first=first,
        second=second,
        is_same=pairs.is_same,
        splits=folds,
        method=method,
        names_tell_identities=False,  # Only the accuracy gets an interval.
        more_metrics=more_metrics,
    )


def _by_fold(result):
    names = ("std", "threshold", "fold_accuracies", "fold_thresholds")
    return {name: getattr(result, name) for name in names}


if __name__ == "__main__":
    main()
