"""Tells whether two pictures, folders of pictures or videos show the same person.

python -m eval.compare A B --model_path face.onnx
"""

if not __package__:
    raise SystemExit("Start this program in the project's folder: python -m eval.compare")

import argparse
import dataclasses
import functools
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from common.files import file_sha256, printable
from common.options import exit_on_errors, option, parse_options
from eval.compare.comparison import KINDS, Comparison
from eval.compare.sides import Side, read_side
from eval.embedding.embedder import load_embedder
from eval.embedding.engines import EngineOptions
from eval.embedding.model_card import no_thresholds, read_card
from eval.recognition.sources import open_source
from eval.recognition.tracks import TrackOptions, find_tracks


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """Sides and model."""

    a: Path = option(help="picture, folder of pictures of one person, or video", flags=("a",), metavar="A")
    b: Path = option(help="picture, folder or video to compare with A", flags=("b",), metavar="B")
    model_path: Path = option(
        help="a model in any format that eval.test_lfw reads, with thresholds from export.calibrate"
    )
    far: float = option(
        1e-3,
        "false accept rate: fraction of the pairs of different people that are accepted as one person",
        above=0,
        maximum=1,
    )
    threshold: float | None = option(
        None,
        "smallest similarity that counts as the same person, instead of the threshold for --far",
        minimum=-1,
        maximum=1,
    )
    picture: Path | None = option(
        None,
        "also write a PNG file with the faces of both sides, and their similarity among those of other pairs",
        metavar="FILE",
    )
    json: bool = option(False, "print only JSON")
    tracks: TrackOptions
    engine: EngineOptions

    def problems(self) -> Iterator[str]:
        """Yields a sentence for a wrong value."""
        if self.picture is not None and self.picture.suffix.lower() != ".png":
            yield f"--picture: expected a name that ends in .png, received {self.picture}."


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the program. Raises `SystemExit` with a message if the sides cannot be compared."""
    parser = argparse.ArgumentParser(
        prog="python -m eval.compare", description=(__doc__ or "").splitlines()[0]
    )
    options = parse_options(parser, CompareOptions, argv)
    logging.basicConfig(format="%(message)s")
    with exit_on_errors("eval.compare"):
        run(options)


def run(options: CompareOptions) -> None:
    """Compares, prints the answer and draws the picture.

    Raises:
        FileNotFoundError, ValueError: the model, its thresholds or a side cannot be used.
    """
    are_single = all(len(open_source(path).names) == 1 for path in (options.a, options.b))
    kind = "single" if are_single else "template"
    calibration = read_card(options.model_path).calibration(prefer=kind)
    point, threshold = None, options.threshold
    if threshold is None:
        if calibration is None:
            raise ValueError(f"{no_thresholds(options.model_path)} (or give --threshold)")
        point = calibration.threshold_at(options.far)
        threshold = point.threshold
    # The thresholds are valid only for faces that are embedded and pooled as in the calibration.
    flip = calibration is not None and calibration.flip
    pooling = (calibration and calibration.pooling) or "mean"
    embedder = load_embedder(options.model_path, flip=flip, engine=options.engine)

    @functools.cache  # If A and B are the same path, it is searched only once.
    def side(path: Path) -> Side:
        search = functools.partial(
            find_tracks, embedder=embedder, options=options.tracks, progress=not options.json
        )
        return read_side(path, search, pooling)

    sides = side(options.a), side(options.b)
    similarity = float(np.clip(sides[0].template @ sides[1].template, -1, 1))
    notes = list(_notes(sides, threshold))
    if point is not None and calibration is not None:
        if calibration.kind != kind:
            notes.append(
                f"the model card has no thresholds for {KINDS[kind]}, and those for "
                f"{KINDS[calibration.kind]} may not fit. Measure thresholds with export.calibrate"
            )
        if point.note is not None:
            notes.append(point.note)
    comparison = Comparison(sides, similarity, threshold, calibration, point, tuple(notes))
    if options.picture is not None:
        from eval.compare.picture import write_picture  # Imports matplotlib.

        write_picture(options.picture, comparison)
    if options.json:
        print(json.dumps(comparison.to_json(embedder), indent=1))
        return
    print("\n".join(map(printable, comparison.lines())))
    if options.picture is not None:
        print(f"Picture    : {options.picture}")


def _notes(sides: tuple[Side, Side], threshold: float) -> Iterator[str]:
    if _is_same_file(*(side.path for side in sides)):
        yield "A and B are the same file, so the similarity means nothing"
    for side in dict.fromkeys(sides):
        yield from side.problems
        if side.kind == "folder":
            for face, typicality in zip(side.faces, side.typicality, strict=True):
                if typicality < threshold:
                    picture = side.path / side.place(face)
                    yield f"{picture}: another person? Its similarity to the whole folder is {typicality:.2f}"


def _is_same_file(a: Path, b: Path) -> bool:
    if a.is_dir() or b.is_dir():
        return a.resolve() == b.resolve()
    return a.stat().st_size == b.stat().st_size and file_sha256(a) == file_sha256(b)


if __name__ == "__main__":
    main()
