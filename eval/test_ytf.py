"""Scores a model on the videos of YouTube Faces, or of another set in the same layout.

python -m eval.test_ytf --model_path=output/models/iter_...
"""

if not __package__:
    raise SystemExit("Start this program in the project's folder: python -m eval.test_ytf")

import argparse
import dataclasses
import logging
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np

from common.files import file_sha256
from common.options import exit_on_errors, option, parse_options
from dataset.config import YtfConfig, read_config
from dataset.pairs.video_frames import find_frames
from dataset.pairs.video_pairs import read_video_pairs, read_wrong_videos
from eval.embedding.engines import NUM_COMPARED, EngineOptions, load_engine
from eval.embedding.extractor import embed_into
from eval.embedding.feature_store import FeatureStore, inputs_of_frames
from eval.report.run_folder import default_output, held_output, write_run_folder
from eval.scoring.coverage import coverage_of, describe_coverage
from eval.scoring.evaluation import Evaluation
from eval.scoring.evaluation_run import InputFile, InputFrames, Inputs, Scores
from eval.scoring.videos import VideoProtocol, evaluate_videos
from eval.scoring.ytf_protocol import ERROR_FILTERS
from nets.importers.model_files import describe_model, find_model, model_sha256

# The flags that `--faithful` sets, with their rows in docs/fidelity.md.
FAITHFUL = {
    "rule": "crossing",  # --threshold, row 18
    "folds": "position",  # rows 19 and 20
    "error_filter": "positives",  # --ytf_error_filter, row 21
    "error_match": "substring",  # --ytf_error_match, row 21
    "allow_missing": True,  # row 22
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Data.

    Paths that you do not give as flags come from section [ytf] of the config file.
    """

    config: Path = option(Path("./config.ini"), "config file", metavar="FILE")
    splits: Path | None = option(
        None, "file of the pairs, splits.txt or splits_corrected.txt", metavar="FILE"
    )
    prefix: Path | None = option(None, "folder of the frames, Name/number/*.jpg", metavar="DIR")
    ytf_error: Path | None = option(
        None, "list of videos with wrong identities (default: dataset/ytf-error.txt)", metavar="FILE"
    )
    allow_missing: bool = option(
        False,
        "if videos or frames are missing, score the pairs that have frames (row 22)",
        action=argparse.BooleanOptionalAction,
    )
    crop: tuple[int, int] | None = option(
        None, "crop larger frames to their centre", nargs=2, metavar=("H", "W")
    )

    def completed(self) -> Self:
        """Returns these options, with paths from the config file for those that are not given.

        Raises:
            FileNotFoundError, ValueError: the config file is needed, but is missing or lacks a path.
        """
        ytf = YtfConfig() if self.splits and self.prefix else read_config(self.config).ytf
        names = ("splits", "prefix", "ytf_error")
        paths = {name: getattr(self, name) or getattr(ytf, name) for name in names}
        for name in ("splits", "prefix"):
            if paths[name] is None:
                raise ValueError(f"{self.config}, [ytf]: no key {name}. Add it, or give --{name}.")
        return dataclasses.replace(self, **paths)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureOptions:
    """Features."""

    batch_size: int = option(128, "frames to embed at a time", minimum=1)
    flip: bool = option(False, "add the embedding of each frame's mirror image")
    folder: Path = option(
        Path("output/features"),
        "folder that keeps features for later runs",
        flags=("--features",),
        metavar="DIR",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class YtfOptions:
    """All flags of the program."""

    model_path: Path = option(
        help="SavedModel, training checkpoint, or a .keras, .onnx, .tflite, .xml, .pth or TensorFlow 1 file"
    )
    faithful: bool = option(
        False, "score as the original does: sets the flags marked (row N), see that row of docs/fidelity.md"
    )
    output: Path | None = option(
        None,
        "folder for scores, pictures and report (default: output/ytf/MODEL, named after the model's path)",
        metavar="DIR",
    )
    data: DataOptions
    engine: EngineOptions
    features: FeatureOptions
    protocol: VideoProtocol


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the program. Raises `SystemExit` with a message if the videos cannot be scored."""
    parser = argparse.ArgumentParser(
        prog="python -m eval.test_ytf", description=(__doc__ or "").splitlines()[0]
    )
    options = parse_options(parser, YtfOptions, argv, faithful=FAITHFUL)
    logging.basicConfig(format="%(message)s")
    logging.getLogger("common").setLevel(logging.INFO)  # progress
    output = options.output or default_output("ytf", options.model_path, options.faithful)
    with exit_on_errors("eval.test_ytf"), held_output(output):
        _evaluate(options, output, shlex.join(sys.argv[1:] if argv is None else argv))


def _evaluate(options, output, command):
    data, protocol = options.data.completed(), options.protocol
    model_path = find_model(options.model_path)
    engine = options.engine.chosen_for(model_path)
    pairs = read_video_pairs(data.splits)
    wrong_videos = read_wrong_videos(data.ytf_error)
    frames = find_frames(data.prefix, pairs.videos, memo=options.features.folder)
    coverage = coverage_of(pairs, frames, wrong_videos)
    print("\n".join(describe_coverage(coverage)))
    if not (data.allow_missing or coverage.is_complete):
        raise ValueError(
            f"{data.prefix}: frames are missing. Add them, or score the other pairs with --allow_missing."
        )
    face_size = data.crop or frames.image_size
    if any(want > have for want, have in zip(face_size, frames.image_size, strict=True)):
        height, width = frames.image_size
        raise ValueError(
            f"--crop {face_size[0]} {face_size[1]}: the frames are {height}x{width}. Give a smaller size."
        )
    inputs = Inputs(
        model=InputFile(str(model_path), model_sha256(model_path)),
        splits=InputFile(str(data.splits), file_sha256(data.splits)),
        ytf_error=InputFile(str(data.ytf_error), file_sha256(data.ytf_error)),
        frames=InputFrames(
            str(data.prefix), frames.sha256, frames.image_size, data.crop, options.features.flip
        ),
    )
    feature_inputs = inputs_of_frames(inputs.model.sha256, inputs.frames, engine)
    with FeatureStore(options.features.folder, feature_inputs, len(frames)) as store:
        if not store.is_complete:
            _extract(store, model_path, engine, frames, face_size, options.features)
        print(f"Features : {store.folder}")
        evaluation = evaluate_videos(pairs, frames, store.features, wrong_videos, protocol, progress=True)
    model = describe_model(model_path)
    scores = Scores(
        name=model.name,
        set="ytf",
        faithful=options.faithful,
        command=f"python -m eval.test_ytf {command}",
        versions=engine.package_versions,
        inputs=inputs,
        engine=engine,
        model=model,
        coverage=coverage,
        **dataclasses.asdict(protocol),
        **{name: getattr(evaluation, name) for name in Evaluation.SCORES},
    )
    _print_scores(scores)

    def column(video: str, num_faces: int) -> np.ndarray:
        start, stop = frames.offsets[frames.videos.index(video) :][:2]
        # One face is that of the first frame. Several faces are from the middles of equal parts of the video;
        # in a short video, a frame may repeat.
        middles = (2 * np.arange(num_faces) + 1) * (stop - start) // (2 * num_faces)
        places = middles if num_faces > 1 else [0]
        return np.concatenate([frames.decode(start + place, start + place + 1)[0] for place in places])

    print(f"Report : {write_run_folder(output, scores, evaluation.pairs, column)}")


def _extract(store, model_path, engine, frames, face_size, options):
    top, left = ((have - want) // 2 for have, want in zip(frames.image_size, face_size, strict=True))

    def decode(start, stop):
        return frames.decode(start, stop)[:, top : top + face_size[0], left : left + face_size[1]]

    num_left = store.num_rows - store.num_done
    model, description = load_engine(engine, model_path, face_size, decode(0, NUM_COMPARED), num_left)
    print(description)
    embed_into(store, model, decode, options.batch_size, flip=options.flip, progress="frames")


def _print_scores(scores: Scores) -> None:
    for line in scores.lines:
        print(f"Precision on {line.name} : {line.accuracy:.5f}+-{line.std:.5f}")
        accuracies = " ".join(f"{accuracy:.4f}" for accuracy in line.fold_accuracies)
        print(f"  threshold {line.threshold:.5f}; splits {accuracies}")
    names = scores.methods[scores.method].metrics
    print(f"{ERROR_FILTERS[scores.error_filter]}, by method:")
    print(f"{'':18}" + "".join(f"{name:>14}" for name in names))
    for method, method_scores in scores.methods.items():
        values = method_scores.metrics.values()
        cells = (f"{'-':>14}" if value is None else f"{value:14.5f}" for value in values)
        print(f"{method:18}" + "".join(cells))


if __name__ == "__main__":
    main()
