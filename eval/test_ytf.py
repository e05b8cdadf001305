"""Scores a model on the videos of YouTube Faces, or any set in the same layout.

python -m eval.test_ytf --model_path=output/models/iter_...
"""

import argparse
import dataclasses
import importlib.metadata
import os
import shlex
import sys
from pathlib import Path

from common.files import atomic_folder, file_sha256
from common.flags import parse_flags
from dataset.config import read_config
from dataset.pairs.video_frames import find_frames
from dataset.pairs.video_pairs import read_video_pairs, read_wrong_videos
from eval.embedding.engines import add_engine_flags, describe_engine, engines_for
from eval.embedding.feature_store import FeatureStore, has_rows
from eval.report.pair_pictures import write_errors, write_hardest
from eval.scoring.coverage import coverage_of, describe_coverage
from eval.scoring.evaluation_run import InputFile, InputFrames, Inputs, Scores, write_run
from eval.scoring.verification import RULES
from eval.scoring.video_distances import DEFAULT_METHOD, METHODS
from eval.scoring.videos import VideoProtocol, evaluate_videos
from eval.scoring.ytf_protocol import ERROR_FILTERS, FOLDS, MATCHES
from nets.importers.model_files import find_model, model_sha256

_NUM_COMPARED = 16  # frames that engines embed, to see whether they agree and which is faster

# What `--faithful` sets, each of which is a flag of its own; the rows are those of docs/fidelity.md.
FAITHFUL = {
    "threshold": "crossing",  # row 18
    "folds": "position",  # rows 19 and 20
    "ytf_error_filter": "positives",  # row 21
    "ytf_error_match": "substring",  # row 21
    "allow_missing": True,  # row 22
}


def main(argv=None):
    """The program; `SystemExit` with a message if there is nothing to score."""
    args = _parse_arguments(argv)
    try:
        _evaluate(args, shlex.join(sys.argv[1:] if argv is None else argv))
    except (ValueError, OSError) as error:
        raise SystemExit(f"eval.test_ytf: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _evaluate(args, command):
    output = args.output or Path("output/ytf", args.model_path.name + "-faithful" * args.faithful)
    if output.exists() and not (output / "scores.json").is_file() and any(output.iterdir()):
        raise ValueError(f"{output}: expected no such folder or an earlier run's, received other content")
    engines = engines_for(args.engine, args.precision)
    model_path = find_model(args.model_path)
    model_hash = model_sha256(model_path)
    splits, prefix, ytf_error = _paths(args)
    pairs = read_video_pairs(splits)
    wrong_videos = read_wrong_videos(ytf_error) if ytf_error else ()

    frames = find_frames(prefix, pairs.videos, memo=args.features)
    coverage = coverage_of(pairs, frames, wrong_videos)
    print("\n".join(describe_coverage(coverage)))
    if not (args.allow_missing or coverage.is_complete):
        raise ValueError(f"{prefix}: expected all frames of all videos; --allow_missing scores what is there")

    of_frames = {
        "sha256": frames.sha256,
        "image_size": frames.image_size,
        "crop": args.crop,
        "flip": args.flip,
    }
    protocol = VideoProtocol(
        args.pooling, args.threshold, args.folds, args.ytf_error_filter, args.ytf_error_match
    )
    inputs = {"model": model_hash, "frames": of_frames}

    def inputs_of(engine):
        return {**inputs, "engine": dataclasses.asdict(engine)}

    # Features that were begun are continued by the same engine, and need none when they are all there.
    begun = [engine for engine in engines if has_rows(args.features, inputs_of(engine))]
    model, engine = None, begun[0] if begun else None
    if engine is None:
        model, engine = _load(model_path, args.crop, frames, engines)
    with FeatureStore(args.features, inputs_of(engine), len(frames)) as store:
        if not store.is_complete:
            model = model or _load(model_path, args.crop, frames, [engine])[0]
            _extract(store, model, args, frames)
        print(f"Features : {store.folder}")
        evaluation = evaluate_videos(pairs, frames, store.features, wrong_videos, protocol, progress=True)

    scores = Scores(
        name=args.model_path.name,
        set="ytf",
        faithful=args.faithful,
        command=f"python -m eval.test_ytf {command}",
        versions={
            name: importlib.metadata.version(name)
            for name in dict.fromkeys((engine.name, "tensorflow", "numpy", "opencv-python-headless"))
        },
        inputs=Inputs(
            model=InputFile(str(model_path), model_hash),
            splits=InputFile(str(splits), file_sha256(splits)),
            ytf_error=InputFile(str(ytf_error), file_sha256(ytf_error)) if ytf_error else None,
            frames=InputFrames(str(prefix), **of_frames),
        ),
        engine=engine,
        coverage=coverage,
        **dataclasses.asdict(protocol),
        lines=evaluation.lines,
        methods=evaluation.methods,
        frames_curve=evaluation.frames_curve,
        bootstrap=evaluation.bootstrap,
        hardest=evaluation.hardest,
    )
    _print_scores(scores)
    from eval.report.page import write_report  # with matplotlib, which takes a second to import

    with atomic_folder(output) as folder:
        write_errors(folder / "errors", frames, evaluation, args.pooling)
        write_hardest(folder, frames, evaluation)
        run = write_run(folder, scores, evaluation.pairs)
        write_report([run], folder / "report" / "index.html")
    print(f"Report : {output / 'report' / 'index.html'}")


def _paths(args):
    """Splits, prefix and list of wrong videos, or `None` for the last: from the flags, else the config."""
    splits, prefix, ytf_error = args.splits, args.prefix, args.ytf_error
    if splits is None or prefix is None:
        config = read_config(args.config)
        splits, prefix = splits or config.ytf.splits, prefix or config.ytf.prefix
        ytf_error = ytf_error or config.ytf.ytf_error
        for key, value in (("splits", splits), ("prefix", prefix)):
            if value is None:
                raise ValueError(f"{args.config}: section [ytf]: expected key '{key}', or a flag --{key}")
    return splits, prefix, ytf_error


def _load(model_path, crop, frames, engines):
    """The model and the engine that runs it."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # TensorFlow takes seconds to import: not for --help, a wrong file, or features that are there.
    from eval.embedding.engines import load_engine

    height, width = frames.image_size
    if crop and (crop[0] > height or crop[1] > width):
        raise ValueError(
            f"--crop: expected at most the frames' {height}x{width}, received {crop[0]}x{crop[1]}"
        )
    face_size = tuple(crop or frames.image_size)
    faces = _decoder(frames, crop)(0, _NUM_COMPARED)
    model, engine, rates = load_engine(model_path, face_size, engines, faces)
    print(describe_engine(engine, rates))
    return model, engine


def _extract(store, model, args, frames):
    from eval.embedding.extractor import embed_into

    decode = _decoder(frames, args.crop)
    embed_into(store, model, decode, args.batch_size, flip=args.flip, progress=True)


def _decoder(frames, crop):
    """A function `(start, stop)` to these frames, cropped."""
    if not crop:
        return frames.decode
    top, left = ((have - want) // 2 for have, want in zip(frames.image_size, crop, strict=True))
    return lambda start, stop: frames.decode(start, stop)[:, top : top + crop[0], left : left + crop[1]]


def _print_scores(scores: Scores) -> None:
    for line in scores.lines:
        print(f"Precision on {line.name} : {line.accuracy:.5f}+-{line.std:.5f}")
        accuracies = " ".join(f"{accuracy:.4f}" for accuracy in line.fold_accuracies)
        print(f"  threshold {line.threshold:.5f}; splits {accuracies}")
    names = list(scores.methods[scores.method].metrics)
    print(f"{ERROR_FILTERS[scores.error_filter]}, by method:")
    print(f"{'':18}" + "".join(f"{name:>14}" for name in names))
    for method, method_scores in scores.methods.items():
        values = (method_scores.metrics[name] for name in names)
        print(
            f"{method:18}" + "".join(f"{'-':>14}" if value is None else f"{value:14.5f}" for value in values)
        )


def _parse_arguments(argv):
    parser = argparse.ArgumentParser(
        prog="python -m eval.test_ytf",
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--model_path", type=Path, required=True, help="SavedModel, checkpoint, or any other form of a net"
    )
    parser.add_argument(
        "--faithful", action="store_true",
        help="as the original's script scores: sets the flags marked (row N of docs/fidelity.md)",
    )  # fmt: skip
    data = parser.add_argument_group("data")
    data.add_argument(
        "--config", type=Path, default=Path("./config.ini"), help="[ytf] says what is not given"
    )
    data.add_argument("--splits", type=Path, metavar="FILE", help="splits.txt or splits_corrected.txt")
    data.add_argument("--prefix", type=Path, metavar="DIR", help="folder of Name/number/*.jpg")
    data.add_argument("--ytf_error", type=Path, metavar="FILE", help="videos with wrong identities")
    data.add_argument(
        "--allow_missing", action=argparse.BooleanOptionalAction, default=False,
        help="score the pairs that have frames, where some have not (row 22)",
    )  # fmt: skip
    data.add_argument("--crop", type=int, nargs=2, metavar=("H", "W"), help="centre crop of larger frames")

    features = parser.add_argument_group("features")
    features.add_argument("--batch_size", type=int, default=128, help="frames at a time")
    add_engine_flags(features)
    features.add_argument("--flip", action="store_true", help="add each frame's mirror image (row 31)")
    features.add_argument(
        "--features", type=Path, default=Path("output/features"), metavar="DIR", help="where they are kept"
    )

    protocol = parser.add_argument_group("protocol", "what curves, pictures and the table of methods show")
    protocol.add_argument("--pooling", choices=METHODS, default=DEFAULT_METHOD, help="of a video's frames")
    protocol.add_argument(
        "--threshold", choices=RULES, default="best", help="how it is found on the other folds (row 18)"
    )
    protocol.add_argument(
        "--folds", choices=FOLDS, default="official", help="the file's splits, or the original's (row 20)"
    )
    protocol.add_argument(
        "--ytf_error_filter", choices=ERROR_FILTERS, default="none",
        help="pairs with a wrong video that are left out: scores are always printed for all three (row 21)",
    )  # fmt: skip
    protocol.add_argument(
        "--ytf_error_match", choices=MATCHES, default="exact", help="of a wrong video's name (row 21)"
    )
    parser.add_argument(
        "--output", type=Path, metavar="DIR",
        help="folder of scores, pictures and report (default: output/ytf/MODEL)",
    )  # fmt: skip
    return parse_flags(parser, argv, FAITHFUL)


if __name__ == "__main__":
    main()
