"""Turns pictures and videos into rows, each with an embedding and its origin."""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from dataset.align.detector import choose_face
from eval.embedding.embedder import Embedder
from eval.embedding.extractor import NotFiniteError
from eval.embedding.input_format import crop_centre
from eval.recognition.faces import find_faces
from eval.recognition.sources import Picture, read_picture
from eval.recognition.tracks import FoundTracks, TrackOptions, find_tracks

_NO_BOX = (np.nan,) * 4


class Row(NamedTuple):
    """One embedding. `COLUMNS` says what the fields mean."""

    names: str
    embeddings: np.ndarray
    tracks: int = 0
    frames: tuple[int, int] = (0, 0)
    times: tuple[float, float] = (0.0, 0.0)
    num_faces: int = 1
    boxes: Sequence[float] | np.ndarray = _NO_BOX


class Failure(NamedTuple):
    """A file without a row, or a part of a file that could not be read."""

    failed_names: str
    failed_reasons: str


class Column(NamedTuple):
    """An array of the result, with an entry for each row."""

    dtype: Any
    shape: tuple[int, ...]  # shape of an entry, where -1 stands for the length of an embedding
    meaning: str


COLUMNS = {
    "names": Column(str, (), "the file"),
    "embeddings": Column(np.float32, (-1,), "not normalised; divide them by norms"),
    "norms": Column(np.float32, (), "length of the embedding, which grows with the quality of the face"),
    "tracks": Column(np.int32, (), "number of the person in a video, from 1; 0 for a picture"),
    "frames": Column(np.int64, (2,), "first and last frame of a video that show the face, from 0"),
    "times": Column(np.float64, (2,), "times of these frames, in seconds"),
    "num_faces": Column(np.int32, (), "number of pooled faces"),
    "boxes": Column(np.float32, (4,), "left, top, right, bottom of the best face; NaN with --aligned"),
}


def to_arrays(rows: Sequence[Row], failures: Iterable[Failure], dim: int) -> dict[str, np.ndarray]:
    """Returns the arrays of `COLUMNS`, and `failed_names` and `failed_reasons`, all by name."""
    arrays = {}
    for name in Row._fields:
        column = COLUMNS[name]
        shape = (len(rows), *(dim if size < 0 else size for size in column.shape))
        arrays[name] = np.array([getattr(row, name) for row in rows], column.dtype).reshape(shape)
    arrays["norms"] = np.linalg.norm(arrays["embeddings"], axis=1).astype(np.float32)
    pairs = np.array(list(failures), str).reshape(-1, len(Failure._fields))
    return arrays | dict(zip(Failure._fields, pairs.T, strict=True))


@dataclasses.dataclass(frozen=True, kw_only=True)
class PictureSearch:
    """Finds the one face of a picture.

    Args:
        face_size: `(height, width)` of the aligned face.
        aligned: whether the pictures are aligned faces.
        face: which face to choose; see `dataset.align.detector.choose_face`.
        tracks: the smallest size and score of a face.
    """

    face_size: tuple[int, int]
    aligned: bool
    face: str
    tracks: TrackOptions

    def find(self, path: Path) -> tuple[np.ndarray, Sequence[float] | np.ndarray] | str:
        """Returns the aligned face, uint8 `(*face_size, 3)` and its box, or why there is none."""
        try:
            picture = read_picture(path)
            return self._crop(picture) if self.aligned else self._find_face(picture)
        # A detector that fails must not end a long run.
        except (ValueError, OSError, IndexError, cv2.error) as error:
            return _reason(path, error)

    def _crop(self, picture):
        if any(have < want for have, want in zip(picture.shape, self.face_size, strict=False)):
            sizes = (*self.face_size, *picture.shape[:2])
            raise ValueError("expected a face of at least {}x{}, received {}x{}".format(*sizes))
        return crop_centre(picture[None], self.face_size)[0], _NO_BOX

    def _find_face(self, picture):
        options = self.tracks
        frame = Picture(0, 0.0, picture)
        faces = find_faces(frame, self.face_size, options.min_score, options.min_face_size)
        usable = [face for face in faces if face.rejected is None]
        if not usable:
            reasons = [face.rejected for face in faces]
            raise ValueError(f"expected a usable face, received {reasons[0] if reasons else 'none'}")
        chosen: Any = usable[
            choose_face(np.array([face.box for face in usable]), picture.shape[:2], self.face)
        ]
        return chosen.image, chosen.box


def embed_pictures(
    names: Sequence[str], found: Sequence[tuple | str], embedder: Embedder
) -> tuple[list[Row], list[Failure]]:
    """Embeds the faces of pictures.

    Args:
        names: names of the pictures.
        found: for each picture, the result of `PictureSearch.find`.
        embedder: the model.

    Returns:
        `(rows, failures)`.
    """
    failures = [Failure(name, face) for name, face in zip(names, found, strict=True) if isinstance(face, str)]
    faces = [(name, *face) for name, face in zip(names, found, strict=True) if not isinstance(face, str)]
    if not faces:
        return [], failures
    embeddings = embedder.embed(np.stack([image for _, image, _ in faces]))
    rows = [
        Row(name, embedding, boxes=box) for (name, _, box), embedding in zip(faces, embeddings, strict=True)
    ]
    return rows, failures


def embed_video(
    name: str, path: Path, embedder: Embedder, options: TrackOptions, *, every_face: bool, progress: bool
) -> tuple[list[Row], list[Failure]]:
    """Embeds the people in a video.

    Args:
        name: name of the video in the rows.
        path: the video.
        embedder: the model.
        options: how to find faces and tracks.
        every_face: make a row for each usable face instead of one for each track.
        progress: show progress.

    Returns:
        `(rows, failures)`.

    Raises:
        NotFiniteError: the model is broken.
    """
    try:
        found = find_tracks(path, embedder, options, progress=progress)
    except NotFiniteError:  # The cause is the model, not the video.
        raise
    except (ValueError, OSError) as error:
        return [], [Failure(name, _reason(path, error))]
    rows = list(_rows_of_faces(name, found) if every_face else _rows_of_tracks(name, found))
    failures = [Failure(name, _reason(path, problem)) for problem in found.problems]
    if not rows:
        failures.append(Failure(name, found.why_empty))
    return rows, failures


def _rows_of_tracks(name: str, found: FoundTracks):
    for track in found.tracks:
        usable = [i for i, face in enumerate(track.faces) if face.rejected is None]
        first, last = track.faces[usable[0]], track.faces[usable[-1]]
        length = np.linalg.norm(track.embeddings[usable], axis=1).mean()
        yield Row(
            name,
            np.asarray(track.template) * length,
            track.number,
            (first.frame, last.frame),
            (first.time, last.time),
            len(usable),
            track.faces[int(np.argmax(track.weights))].box,
        )


def _rows_of_faces(name: str, found: FoundTracks):
    for track in found.tracks:
        for face, embedding in zip(track.faces, track.embeddings, strict=True):
            if face.rejected is None:
                frames, times = (face.frame, face.frame), (face.time, face.time)
                yield Row(name, embedding, track.number, frames, times, 1, face.box)


def _reason(path: Path, error: Exception | str) -> str:
    """Returns a message in one line that does not name the file again."""
    return " ".join(str(error).split()).removeprefix(f"{path}: ")
