"""Aligns all pictures of a folder in several processes. An interrupted run can be resumed."""

from __future__ import annotations

import dataclasses
import functools
import logging
import os

from common.files import FileLock, write_file, write_json
from common.processes import worker_map
from common.progress import Progress
from common.typed_json import read_json
from dataset.align.alignment import CENTRE_CROP, NO_FACE, UNREADABLE, align_picture
from dataset.align.detector import FaceDetector
from dataset.align.options import AlignOptions
from dataset.images import SUFFIXES
from dataset.pairs.image_folders import walk_files

logger = logging.getLogger(__name__)

SETTINGS_NAME = "align.json"
FAILURES_NAME = "align_failures.txt"

_LOCK_NAME = ".align.lock"
_VERSION = 1  # increase it when the same options no longer give the same images
_CHUNK = 8  # pictures that a worker receives at once


def align_folder(options: AlignOptions, detector: FaceDetector | None = None) -> dict[str, int]:
    """Aligns the pictures below `options.src` that earlier calls have not aligned or listed as failures.

    Hidden files and folders are ignored, and links to folders are not followed. To try a picture again,
    delete its line from the list of failures.

    Args:
        options: what to align and how.
        detector: `FaceDetector`, or another picklable object with `name` and `detect`. Defaults to
            `FaceDetector(options.faces.min_face_size)`.

    Returns:
        dict from `"aligned"`, `"no face"`, `"centre crop"` and `"unreadable"` to the number of pictures,
        including those of earlier calls.

    Raises:
        ValueError: there are no pictures, two faces would get the same name, or `dst` was made with other
            options.
        OSError: `src` does not exist, another process is writing to `dst`, the disk is full, or a worker was
            killed. Finished faces are kept.
    """
    detector = detector or FaceDetector(options.faces.min_face_size)
    src, dst = options.src.resolve(), options.dst.resolve()
    if src.is_relative_to(dst) or dst.is_relative_to(src):
        raise ValueError(f"{src} and {dst}: one contains the other. Give two separate folders.")
    outputs = _find_pictures(src)
    faces = dataclasses.asdict(options.faces) | {"image_size": list(options.faces.image_size)}
    dst.mkdir(parents=True, exist_ok=True)
    _check_settings(dst, {"version": _VERSION, "src": str(src), **faces, "detector": detector.name})
    with FileLock(dst / _LOCK_NAME) as lock:
        lock.acquire()
        finished, failures = _finished_outputs(dst), _read_failures(dst)
        _write_failures(dst, failures)  # A killed run may have left half a line.
        failed = {source for source, (kind, _) in failures.items() if kind != CENTRE_CROP}
        jobs = [job for job in outputs.items() if job[0] not in failed and job[1] not in finished]
        logger.info("%s: %d pictures, %d of them to align", src, len(outputs), len(jobs))
        align = functools.partial(_align_file, detector, options, src, dst)
        num_workers = min(options.workers or os.cpu_count() or 1, -(-len(jobs) // _CHUNK))
        num_done = len(outputs) - len(jobs)
        with worker_map(num_workers, _CHUNK) as run:
            done = run(align, jobs)
            for _ in Progress(done, desc=src.name, total=len(outputs), initial=num_done, unit="images"):
                pass
        failures = {source: failure for source, failure in _read_failures(dst).items() if source in outputs}
        _write_failures(dst, failures)
    kinds = [kind for kind, _ in failures.values()]
    counts = {kind: kinds.count(kind) for kind in (NO_FACE, CENTRE_CROP, UNREADABLE)}
    return {"aligned": len(outputs) - len(failures), **counts}


def _find_pictures(src):
    """Returns a dict from each picture's path below `src` to its face's path below `dst`."""
    if not src.is_dir():
        raise FileNotFoundError(f"{src}: no such folder. Give the folder of the pictures.")
    sources = {}
    for source in walk_files(src):
        if not source.lower().endswith(SUFFIXES):
            continue
        if "\t" in source or "\n" in source:
            raise ValueError(f"{src}: expected names without tabs and line breaks, received {source!r}")
        output = f"{source.rpartition('.')[0]}.jpg"
        first = sources.setdefault(output, source)
        if first != source:
            raise ValueError(
                f"{src}: expected file names that differ in more than their suffix, "
                f"received {first} and {source}, which would both become {output}"
            )
    if not sources:
        raise ValueError(f"{src}: expected {', '.join(SUFFIXES)} pictures, received none")
    return {source: output for output, source in sources.items()}


def _finished_outputs(dst):
    """Returns the paths of the finished faces, and removes temporary files of a killed run."""
    finished = set(walk_files(dst))
    for path in finished:
        if path.endswith(".tmp"):
            (dst / path).unlink()
    return finished


def _check_settings(dst, settings):
    """Writes the settings into a new folder. Raises `ValueError` if an existing folder has other settings."""
    path = dst / SETTINGS_NAME
    if not path.is_file():
        if any(not other.match(f"{SETTINGS_NAME}*.tmp") for other in dst.iterdir()):
            raise ValueError(f"{dst}: expected an empty folder or aligned faces, received other files")
        write_json(path, settings)
        return
    try:
        made_with = dict(read_json(path))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: expected the options of these faces, received {error}") from None
    for name, value in settings.items():
        if made_with.get(name) != value:
            raise ValueError(
                f"{path}: these faces were made with {name} {made_with.get(name)}, received {value}. "
                "Choose another --dst."
            )


def _read_failures(dst):
    """Returns a dict from the path of a picture to `(kind, reason)`. Incomplete lines are ignored."""
    path = dst / FAILURES_NAME
    text = path.read_bytes().decode("utf-8", "surrogateescape") if path.is_file() else ""
    rows = [line.split("\t") for line in text.split("\n")[:-1]]
    return {row[0]: (row[1], row[2]) for row in rows if len(row) == 3}


def _write_failures(dst, failures):
    lines = (f"{source}\t{kind}\t{reason}\n" for source, (kind, reason) in sorted(failures.items()))
    write_file(dst / FAILURES_NAME, "".join(lines).encode("utf-8", "surrogateescape"))


def _align_file(detector, options, src, dst, job):
    """Aligns one picture. Writes its face or lists its failure. A centre crop is listed, then written."""
    source, output = job
    try:
        image, failure = align_picture(
            detector, options.faces, (src / source).read_bytes(), options.max_pixels
        )
    except OSError as error:
        image, failure = None, (UNREADABLE, str(error))
    if failure is not None:
        line = f"{source}\t{failure[0]}\t{' '.join(failure[1].split())}\n"
        # Each line is appended by one write, so lines of several processes do not mix.
        with (dst / FAILURES_NAME).open("ab", buffering=0) as file:
            file.write(line.encode("utf-8", "surrogateescape"))
            os.fsync(file.fileno())
    if image is not None:
        write_file(dst / output, image)
