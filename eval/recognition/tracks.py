"""Follows faces through a video and pools each track into one template."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np

from common.options import option
from common.progress import Progress
from dataset.align.alignment import face_template
from eval.recognition.faces import Detector, Face, find_faces
from eval.recognition.sources import Source, open_source
from eval.scoring.templates import pool

STAGES = ("reading", "detecting", "aligning", "embedding", "tracking")

NUM_PICTURES = 32  # aligned faces to keep of each track

_HALF_SHARPNESS = 30  # sharpness of a face that gets half of the largest possible weight

_BATCH_SIZE = 32  # faces to embed together
_NUM_REJECTED_PICTURES = 500  # aligned faces to keep of all rejected faces of a video

# How far a head can move, in sides of its box: between any two frames, and in addition per second.
_MAX_WAY, _MAX_SPEED = 0.5, 5.0

# The face must be usable in at least this fraction of the frames from the first to the last face of a track.
# Posters and shadows that look like a face are detected only now and then, with a low score.
_MIN_COVERAGE = 1 / 3


class Embedder(Protocol):
    """A model; see `eval.embedding.embedder`."""

    @property
    def face_size(self) -> tuple[int, int]:
        """`(height, width)` of the aligned faces."""
        ...

    def embed(self, faces: np.ndarray) -> np.ndarray:
        """Embeds uint8 RGB faces `(batch, *face_size, 3)` as float32 `(batch, dim)`, not normalised."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrackOptions:
    """Faces and tracks."""

    every: int = option(
        5, "search every Nth frame of a video for faces; a larger N takes less time", minimum=1, metavar="N"
    )
    min_face_size: int | None = option(
        None,
        "smallest face to find, in pixels (default: 1/24 of the shorter side of the picture, at least 20)",
        minimum=12,
    )
    min_score: float = option(
        0.95, "leave out faces to which the detector gives a lower probability", minimum=0.7, maximum=1
    )
    min_faces: int = option(
        3, "drop tracks of a video with fewer faces; in pictures, one face is enough", minimum=1, metavar="N"
    )
    min_similarity: float = option(
        0.5,
        "smallest similarity at which a face continues a track; increase it if two people share a track, "
        "decrease it if one person has several tracks",
        minimum=-1,
        maximum=1,
    )
    max_gap: float = option(
        1.0, "longest gap after which a face continues its track", above=0, metavar="SECONDS"
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Track:
    """One person, followed through a video or a folder of pictures.

    Args:
        number: from 1, in order of the first face, counting rejected tracks, too.
        faces: in order of time. Only the `NUM_PICTURES` faces with the greatest weights have an image.
        embeddings: float32 `(num_faces, dim)`, not normalised.
        weights: float64 `(num_faces,)`: the weight of each face's direction in the template, 0 for rejected
            faces. They sum to 1, or are all 0.
        template: float64 `(dim,)` of length 1, or `None` if the track is rejected.
        rejected: why the track is not used, or `None`.
    """

    number: int
    faces: list[Face]
    embeddings: np.ndarray
    weights: np.ndarray
    template: np.ndarray | None
    rejected: str | None

    @property
    def best(self) -> list[Face]:
        """The faces with an image, the greatest weight first."""
        order = np.argsort(-self.weights, kind="stable")
        return [self.faces[i] for i in order if self.faces[i].image is not None]


@dataclasses.dataclass(frozen=True, eq=False)
class FoundTracks:
    """The tracks of a picture, a folder or a video.

    Args:
        source: the file or folder.
        num_frames: number of frames or pictures that were read.
        num_searched: number of those that were searched for faces.
        duration: seconds from the first to the last frame.
        tracks: usable tracks, in order of their first face.
        rejected: the other tracks, each with its reason.
        problems: a sentence for each picture that could not be read, and for a damaged video.
        seconds: time that each of `STAGES` took.
    """

    source: Source
    num_frames: int
    num_searched: int
    duration: float
    tracks: list[Track]
    rejected: list[Track]
    problems: list[str]
    seconds: dict[str, float]

    @property
    def main(self) -> Track:
        """The track of the person who is seen most: the one with the largest sum of face sizes.

        Raises:
            ValueError: there is no usable track. The message says why.
        """
        if not self.tracks:
            raise ValueError(f"{self.source.path}: {self.why_empty}")
        return max(self.tracks, key=lambda track: sum(face.size for face in track.faces if not face.rejected))

    @property
    def why_empty(self) -> str:
        """The reason why there is no usable track."""
        if not self.rejected:
            where = "" if self.num_frames == 1 else f" in the {self.num_searched} frames that were searched"
            return f"expected a face, received none{where}"
        most = max(self.rejected, key=lambda track: len(track.faces))
        return f"expected a usable face, but {most.rejected}"


def find_tracks(
    path: Path,
    embedder: Embedder,
    options: TrackOptions | None = None,
    detector: Detector | None = None,
    progress: bool = False,
) -> FoundTracks:
    """Finds the people in a picture, a folder of pictures or a video.

    A face continues a track if its embedding is similar to the mean of the track or to its last face. In a
    video, the face must also be close enough to the last one for the time between them. If several tracks are
    possible, the sum of similarity and overlap of the boxes decides. So a cut to another person starts a new
    track.

    Args:
        path: the picture, folder or video.
        embedder: the model.
        options: how to find faces and tracks. Defaults to `TrackOptions()`.
        detector: finds the faces. Defaults to MTCNN.
        progress: show progress.

    Raises:
        FileNotFoundError, ValueError: the file cannot be read, or faces cannot be aligned to the model's
            `face_size`. A file without faces is not an error.
    """
    options = options or TrackOptions()
    face_template(embedder.face_size)  # Fails for a size that faces cannot be aligned to.
    source = open_source(path)
    seconds: dict[str, float] = dict.fromkeys(STAGES, 0.0)
    problems: list[str] = []
    tracker = _Tracker(options, source.kind == "folder")
    waiting: list[Face] = []
    is_video = source.kind == "video"
    every = options.every if is_video else 1
    num_frames = num_searched = 0
    duration = 0.0
    frames = _timed(source.frames(problems.append), seconds)
    total = source.info.num_frames if source.info else len(source.names)
    for frame in Progress(frames, desc=path.name, unit="frames", total=total, shown=progress):
        num_frames, duration = num_frames + 1, frame.time
        if frame.number % every:
            continue
        start = time.perf_counter()
        _ = frame.image  # The first access decodes the frame, which counts as reading.
        seconds["reading"] += time.perf_counter() - start
        waiting += find_faces(
            frame, embedder.face_size, options.min_score, options.min_face_size, detector, seconds
        )
        num_searched += 1
        if len(waiting) >= _BATCH_SIZE:
            _embed_and_track(waiting, embedder, tracker, seconds)
            waiting = []
    _embed_and_track(waiting, embedder, tracker, seconds)
    start = time.perf_counter()
    # A video of only a few frames cannot show more faces.
    min_faces = min(options.min_faces, (num_searched + 1) // 2) if is_video else 1
    tracks = tracker.finish(min_faces, every if is_video else None)
    seconds["tracking"] += time.perf_counter() - start
    return FoundTracks(
        source,
        num_frames,
        num_searched,
        duration,
        [track for track in tracks if track.rejected is None],
        [track for track in tracks if track.rejected is not None],
        problems,
        seconds,
    )


def _timed(items: Iterable, seconds: dict[str, float]) -> Iterator:
    """Yields the items, and adds the time to get them to `seconds["reading"]`."""
    iterator = iter(items)
    while True:
        start = time.perf_counter()
        item = next(iterator, None)
        seconds["reading"] += time.perf_counter() - start
        if item is None:
            return
        yield item


def _embed_and_track(faces, embedder, tracker, seconds):
    if not faces:
        return
    start = time.perf_counter()
    embeddings = embedder.embed(np.stack([face.image for face in faces]))
    embedded = time.perf_counter()
    numbers = np.array([face.frame for face in faces])
    for number in np.unique(numbers):
        chosen = np.flatnonzero(numbers == number)
        tracker.add([faces[i] for i in chosen], embeddings[chosen])
    seconds["embedding"] += embedded - start
    seconds["tracking"] += time.perf_counter() - embedded


class _Tracker:
    """Assigns faces to tracks, frame by frame."""

    def __init__(self, options: TrackOptions, by_embedding: bool) -> None:
        self.tracks: list[_OpenTrack] = []
        self._options, self._by_embedding = options, by_embedding
        self._num_rejected = 0

    def add(self, faces: list[Face], embeddings: np.ndarray) -> None:
        """Adds the faces of the next frame, best matches first. No face or track is used twice."""
        faces = [self._without_picture(face) for face in faces]
        matches = [
            (-strength, number, i)
            for number, track in enumerate(self.tracks)
            if self._by_embedding or faces[0].time - track.last_seen <= self._options.max_gap
            for i, face in enumerate(faces)
            if (strength := self._strength(track, face, embeddings[i])) is not None
        ]
        used_tracks, used_faces = set(), set()
        for _, number, i in sorted(matches):
            if number not in used_tracks and i not in used_faces:
                used_tracks.add(number)
                used_faces.add(i)
                self.tracks[number].add(faces[i], embeddings[i])
        for i, face in enumerate(faces):
            if i not in used_faces:
                self.tracks.append(_OpenTrack(embeddings.shape[1]))
                self.tracks[-1].add(face, embeddings[i])

    def _without_picture(self, face):
        """Drops the picture of a rejected face if there are many: a poster may be in every frame."""
        self._num_rejected += face.rejected is not None
        if face.rejected is None or self._num_rejected <= _NUM_REJECTED_PICTURES:
            return face
        return dataclasses.replace(face, image=None)

    def finish(self, min_faces: int, every: int | None) -> list[Track]:
        """Returns all tracks. For the arguments, see `_OpenTrack.finish`."""
        return [track.finish(number, min_faces, every) for number, track in enumerate(self.tracks, 1)]

    def _strength(self, track, face, embedding):
        """Returns similarity plus overlap, or `None` if the face does not continue the track."""
        similarity = track.similarity(embedding)
        if similarity < self._options.min_similarity:
            return None
        if self._by_embedding:
            return similarity
        last = track.faces[-1]
        way = np.linalg.norm(last.box[:2] + last.box[2:] - face.box[:2] - face.box[2:]) / 2
        reach = (_MAX_WAY + _MAX_SPEED * (face.time - last.time)) * max(last.size, face.size)
        return similarity + _overlap(last.box, face.box) if way <= reach else None


class _OpenTrack:
    """A track to which faces are still added."""

    def __init__(self, dim: int) -> None:
        self.faces: list[Face] = []
        self._sum = np.zeros(dim)  # of the usable embeddings
        self._embeddings: list[np.ndarray] = []
        self._weights: list[float] = []
        self._pictures: list[int] = []  # indices of faces with an image
        # Time and embedding of the last usable face. Unusable faces do not prolong a track.
        self.last_seen = 0.0
        self._last_embedding = np.zeros(dim)

    def similarity(self, embedding: np.ndarray) -> float:
        """Returns the greater cosine: to the mean of the usable embeddings, or to the last embedding."""
        others = np.stack([self._sum, self._last_embedding])
        lengths = np.linalg.norm(others, axis=1) * np.linalg.norm(embedding)
        return float(np.max(others @ embedding / np.where(lengths > 0, lengths, 1)))

    def add(self, face: Face, embedding: np.ndarray) -> None:
        """Appends a face. If there are too many pictures, the one with the smallest weight is dropped."""
        weight = frame_weight(face, embedding)
        if face.rejected is None:
            self._sum += embedding
        if face.rejected is None or not self._sum.any():
            self.last_seen, self._last_embedding = face.time, embedding
        if face.image is not None:
            self._pictures.append(len(self.faces))
        self.faces.append(face)
        self._embeddings.append(embedding)
        self._weights.append(weight)
        if len(self._pictures) > NUM_PICTURES:
            worst = min(self._pictures, key=lambda i: (self._weights[i], -i))
            self._pictures.remove(worst)
            self.faces[worst] = dataclasses.replace(self.faces[worst], image=None)

    def finish(self, number: int, min_faces: int, every: int | None) -> Track:
        """Pools the template, or says why the track is not usable.

        Args:
            number: number of the track.
            min_faces: number of usable faces that it needs.
            every: step between the frames that were searched. `None` skips the check that the face is usable
                in enough of them.
        """
        embeddings = np.stack(self._embeddings)
        weights = np.array(self._weights)
        rejected = self._reason_to_reject(min_faces, every)
        if rejected is None and not weights.sum() > 0:
            rejected = "the model gives embeddings of length 0 for all of its faces"
        template = None
        if weights.sum() > 0:
            weights = weights / weights.sum()
        if rejected is None:
            used = weights > 0
            units = embeddings[used] / np.linalg.norm(embeddings[used], axis=1, keepdims=True)
            template = pool(units * weights[used, None], "mean")
        return Track(number, self.faces, embeddings, weights, template, rejected)

    def _reason_to_reject(self, min_faces, every):
        usable = [face for face in self.faces if face.rejected is None]
        if not usable:
            best = max(self.faces, key=lambda face: face.score)
            if len(self.faces) == 1:
                return best.rejected
            return f"none of its {len(self.faces)} faces is usable; the best one: {best.rejected}"
        if len(usable) < min_faces:
            return f"it has only {len(usable)} of the {min_faces} usable faces that a track needs"
        if every is not None:
            num_passed = (self.faces[-1].frame - self.faces[0].frame) // every + 1
            if len(usable) < _MIN_COVERAGE * num_passed:
                return f"it flickers: its face is usable in only {len(usable)} of {num_passed} frames"
        return None


def frame_weight(face: Face, embedding: np.ndarray) -> float:
    """Computes the weight of a face's direction in the template of its track.

    With `s`, the face's `sharpness` (the variance of the Laplacian), the weight is

        |embedding| * (1 + s) / (30 + s)

    and 0 for a rejected face. The length of an embedding shrinks for faces that the net cannot see well, but
    too little for blurred faces. A face from a good webcam has `s` from 30 to 60, so noise and patterns in
    front of a face, which raise `s` further, gain little weight. In a trial with blurred, small, dark and
    covered faces, this weight raised TAR at FAR 0.01 to 0.73, from 0.63 with the length alone. The detector's
    score, the size and the pose did not help.

    References:
    - [AdaFace](https://arxiv.org/abs/2204.00964), the length as weight
    - Pech-Pacheco et al. 2000, "Diatom autofocusing in brightfield microscopy", the variance of the Laplacian
    """
    if face.rejected is not None:
        return 0.0
    return float(np.linalg.norm(embedding)) * (1 + face.sharpness) / (_HALF_SHARPNESS + face.sharpness)


def _overlap(first, second):
    """Returns the intersection over union of two boxes."""
    sides = np.minimum(first[2:], second[2:]) - np.maximum(first[:2], second[:2])
    shared = np.prod(np.maximum(sides, 0))
    total = np.prod(first[2:] - first[:2]) + np.prod(second[2:] - second[:2]) - shared
    return float(shared / total) if total > 0 else 0.0
