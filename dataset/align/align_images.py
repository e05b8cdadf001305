"""Aligns faces: finds them in pictures and cuts them out, eyes, nose and mouth where the nets expect them.

    python -m dataset.align --src frames --dst 112x112

Every picture below `--src` becomes a JPEG of the same relative path below `--dst`. Those without a face
and those that cannot be read are listed in `align_failures.txt`. The program may be killed at any moment:
the same command goes on with what is left.
"""

import functools
import json
import logging
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import cv2
from tqdm import tqdm

from common.files import FileLock, write_file, write_json
from common.processes import exit_with_parent, hold_interrupts
from dataset.align.alignment import CENTRE_CROP, NO_FACE, UNREADABLE, FaceAligner
from dataset.align.detector import FaceDetector
from dataset.images import SUFFIXES

logger = logging.getLogger(__name__)


OPTIONS_NAME = "align.json"

FAILURES_NAME = "align_failures.txt"


_VERSION = 1  # to be raised when the same options no longer give the same images

_LOCK_NAME = ".align.lock"

_CHUNK = 8  # pictures that a worker takes at once; Ctrl-C waits for them


def align(
    src,
    dst,
    *,
    image_size=(112, 112),
    face="central",
    fallback="none",
    quality=95,
    min_face_size=20,
    workers=None,
    detector=None,
):
    """Aligns all pictures below a folder, but for those that an earlier call is through with.

    Hidden files and folders are left out, links to folders are not followed. A failure counts as done;
    a picture whose line is deleted from the list of failures is tried again.

    Args:
        src: str or Path, a folder with `.jpg`, `.jpeg` or `.png` pictures, nested in any way.
        dst: str or Path, a folder not inside of `src`: a new one, or one made with the same options.
        image_size, face, fallback, quality: see `FaceAligner`.
        min_face_size: int, see `FaceDetector`. Defaults to `20`.
        workers: int > 0, processes; the images do not depend on it. Defaults to the number of cores.
        detector: something picklable with `name` and `detect`, as `FaceDetector`. Defaults to
            `FaceDetector(min_face_size)`.

    Returns:
        dict from `"aligned"`, `"no face"`, `"centre crop"` and `"unreadable"` to a number of pictures;
        those of earlier calls count, too.

    Raises:
        ValueError: an option out of range, no pictures, two that would get the same name, or a `dst`
            made with other options.
        OSError: no such folder, another process at work in `dst`, no space left, a worker that was
            killed. What is finished is kept.
    """
    detector = detector or FaceDetector(min_face_size)
    aligner = FaceAligner(detector, image_size, face, fallback, quality)
    if workers is not None and workers < 1:
        raise ValueError(f"workers: expected at least 1, received {workers}")
    src, dst = Path(src).resolve(), Path(dst).resolve()
    if src.is_relative_to(dst) or dst.is_relative_to(src):
        raise ValueError(f"expected two folders, neither of them inside the other, received {src} and {dst}")
    outputs = _find_pictures(src)
    options = {
        "version": _VERSION,
        "src": str(src),
        "image_size": list(image_size),
        "face": face,
        "fallback": fallback,
        "quality": quality,
        "min_face_size": min_face_size,
        "detector": detector.name,
    }
    dst.mkdir(parents=True, exist_ok=True)
    _settle_options(dst, options)
    with FileLock(dst / _LOCK_NAME) as lock:
        lock.acquire()
        finished, failures = _finished_outputs(dst), _read_failures(dst)
        _write_failures(dst, failures)  # a line may have been torn by a kill
        given_up = {source for source, (kind, _) in failures.items() if kind != CENTRE_CROP}
        pending = [
            (source, output)
            for source, output in outputs.items()
            if output not in finished and source not in given_up
        ]
        logger.info("%s: %d pictures, %d of them to be aligned", src, len(outputs), len(pending))
        _run(functools.partial(_align, aligner, src, dst), pending, len(outputs), workers or os.cpu_count())
        failures = {source: failure for source, failure in _read_failures(dst).items() if source in outputs}
        _write_failures(dst, failures)
    kinds = [kind for kind, _ in failures.values()]
    counts = {kind: kinds.count(kind) for kind in (NO_FACE, CENTRE_CROP, UNREADABLE)}
    return {"aligned": len(outputs) - len(failures), **counts}


def _find_pictures(src):
    """dict from the path of a picture to that of its aligned face, relative to `src` and `dst`."""
    if not src.is_dir():
        raise FileNotFoundError(f"src: expected a folder, received {src}")
    sources = {}
    for source in _files(src):
        if not source.lower().endswith(SUFFIXES):
            continue
        if "\t" in source or "\n" in source:
            raise ValueError(f"{src}: expected names without tabs and line breaks, received {source!r}")
        output = f"{source.rpartition('.')[0]}.jpg"
        first = sources.setdefault(output, source)
        if first != source:
            raise ValueError(
                f"{src}: expected pictures that differ in more than their suffix, "
                f"received {first} and {source}, which would both become {output}"
            )
    if not sources:
        raise ValueError(f"{src}: expected {', '.join(SUFFIXES)} pictures, received none")
    return {source: output for output, source in sources.items()}


def _finished_outputs(dst):
    """The images that are there. Removes what a killed run left half written."""
    finished = set()
    for path in _files(dst):
        if path.endswith(".tmp"):
            (dst / path).unlink()
        else:
            finished.add(path)
    return finished


def _files(folder):
    """Yields the paths of all files that are not hidden, relative to the folder, in a fixed order."""
    for parent, folders, names in os.walk(folder, onerror=_raise):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        parent = Path(parent).relative_to(folder)
        for name in sorted(names):
            if not name.startswith("."):
                yield (parent / name).as_posix()


def _raise(error):
    raise error


def _settle_options(dst, options):
    """Writes the options into a new folder; otherwise they have to be the same."""
    path = dst / OPTIONS_NAME
    if not path.is_file():
        if any(not other.match(f"{OPTIONS_NAME}*.tmp") for other in dst.iterdir()):
            raise ValueError(f"{dst}: expected an empty folder or aligned faces, received other files")
        write_json(path, options)
        return
    try:
        made_with = dict(json.loads(path.read_bytes()))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: expected the options of these faces, received {error}") from None
    for name, value in options.items():
        if made_with.get(name) != value:
            raise ValueError(
                f"{path}: expected {name} {made_with.get(name)}, as these faces were made with, "
                f"received {value}; another --dst is needed"
            )


def _read_failures(dst):
    """dict from the path of a picture to `(kind, reason)`. Lines that are not whole do not count."""
    path = dst / FAILURES_NAME
    text = path.read_bytes().decode("utf-8", "surrogateescape") if path.is_file() else ""
    rows = [line.split("\t") for line in text.split("\n")[:-1]]
    return {row[0]: (row[1], row[2]) for row in rows if len(row) == 3}


def _write_failures(dst, failures):
    lines = (f"{source}\t{kind}\t{reason}\n" for source, (kind, reason) in sorted(failures.items()))
    write_file(dst / FAILURES_NAME, "".join(lines).encode("utf-8", "surrogateescape"))


def _align(aligner, src, dst, job):
    """Writes the face of one picture, or a line in the list of failures, or both: the line first."""
    source, output = job
    try:
        image, failure = aligner.align((src / source).read_bytes())
    except OSError as error:
        image, failure = None, (UNREADABLE, str(error))
    if failure is not None:
        kind, reason = failure
        line = f"{source}\t{kind}\t{' '.join(reason.split())}\n"
        # Lines of several processes do not mix: each is one write to the end of the file.
        with (dst / FAILURES_NAME).open("ab", buffering=0) as file:
            file.write(line.encode("utf-8", "surrogateescape"))
            os.fsync(file.fileno())
    if image is not None:
        write_file(dst / output, image)


def _run(do_job, jobs, num_images, num_workers):
    num_workers = min(num_workers, -(-len(jobs) // _CHUNK))
    with tqdm(total=num_images, initial=num_images - len(jobs), unit=" images", disable=None) as progress:
        if num_workers <= 1:
            for job in jobs:
                do_job(job)
                progress.update()
            return
        # Forked processes would share the state of OpenCV's threads.
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(num_workers, context, _start_worker, (do_job,))
        try:
            with hold_interrupts():  # starts the workers
                done = pool.map(_do_job, jobs, chunksize=_CHUNK)
            for _ in done:
                progress.update()
        except BrokenProcessPool:
            raise OSError(
                "a worker process was killed, for want of memory?; the same command goes on"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


def _start_worker(do_job):
    global _worker_job
    exit_with_parent()
    cv2.setNumThreads(1)
    _worker_job = do_job


def _do_job(job):
    _worker_job(job)


_worker_job = None  # one per process, from `_start_worker`
