"""The results of a run of `eval.identify`, and its file `tracks.json`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.files import printable, write_json
from eval.recognition.gallery import Match

TRACKS_NAME = "tracks.json"
PAGE_NAME = "index.html"
UNKNOWN = "unknown"

LOADING, GALLERY = "loading the model", "gallery"  # stages before the first source
NAMING, COPIES = "naming", "annotated copies"  # stages after those of `eval.recognition.tracks`


@dataclass(frozen=True)
class Threshold:
    """The smallest similarity at which a track gets a name.

    Attributes:
        value: the threshold.
        reasons: sentences that say where it comes from, and how far it can be trusted.
        fpir: the requested FPIR, or `None` if a flag gave the threshold.
        calibration: kind and set of the pairs that it was measured on, such as `single images, lfw_2000`;
            `None` if a flag gave the threshold.
        calibrated: the threshold that was measured on these pairs, before it was raised.
    """

    value: float
    reasons: tuple[str, ...] = ()
    fpir: float | None = None
    calibration: str | None = None
    calibrated: float | None = None


@dataclass(frozen=True)
class ShownFace:
    """A face of a track on the page: a JPEG file, and where it comes from."""

    frame: int
    time: float
    jpeg: bytes


@dataclass(frozen=True)
class RejectedFace:
    """A face that is not used in a template, and the reason."""

    frame: int
    time: float
    reason: str


@dataclass(frozen=True)
class Box:
    """A detected face in a frame. Positions are in pixels."""

    frame: int
    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True)
class IdentifiedTrack:
    """One person in consecutive frames of a source.

    Attributes:
        number: position in the source, from 1.
        first_frame, last_frame: numbers of the first and the last frame in which the face was detected.
        start, end: their times in seconds.
        frames_used: number of frames in the template.
        matches: people of the gallery, the most similar one first; empty if the track was rejected.
        name: a person of the gallery or `"unknown"`, or `None` if the track was rejected.
        rejected: why the track was rejected, or `None`.
        faces: the best faces, in the order of time.
        rejected_faces: its faces that were left out.
        boxes: where the face was detected.
    """

    number: int
    first_frame: int
    last_frame: int
    start: float
    end: float
    frames_used: int
    matches: tuple[Match, ...] = ()
    name: str | None = None
    rejected: str | None = None
    faces: tuple[ShownFace, ...] = ()
    rejected_faces: tuple[RejectedFace, ...] = ()
    boxes: tuple[Box, ...] = ()

    @property
    def is_known(self) -> bool:
        """True if the track has the name of a person of the gallery."""
        return self.name not in (None, UNKNOWN)

    @property
    def best(self) -> Match | None:
        """The most similar person, or `None`."""
        return self.matches[0] if self.matches else None


@dataclass(frozen=True)
class SourceResult:
    """The results for a video, a picture or a folder of pictures.

    Attributes:
        path: the source.
        kind: `"video"`, `"picture"` or `"folder"`; `None` if it cannot be read.
        error: why it cannot be read, or `None`.
        size: `(height, width)` of the frames of a video.
        num_frames: number of frames that were read.
        num_searched: number of those that were searched for faces.
        duration: seconds from its first to its last frame, or `None`.
        tracks: in the order of their start, rejected ones included.
        in_gallery: the file of the gallery that has the same content, or `None`.
        notes: sentences about the source, for example that it ends early.
        seconds: time that each stage took.
    """

    path: Path
    kind: str | None = None
    error: str | None = None
    size: tuple[int, int] | None = None
    num_frames: int = 0
    num_searched: int = 0
    duration: float | None = None
    tracks: tuple[IdentifiedTrack, ...] = ()
    in_gallery: Path | None = None
    notes: tuple[str, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def named(self) -> list[IdentifiedTrack]:
        """The tracks that were not rejected."""
        return [track for track in self.tracks if track.name is not None]


@dataclass(frozen=True)
class GalleryPerson:
    """A person of the gallery. `face` is the best face as a JPEG file."""

    name: str
    files: tuple[Path, ...]
    num_faces: int
    face: bytes


@dataclass(frozen=True)
class IdentifyRun:
    """A run of `eval.identify`.

    Attributes:
        command: its command line.
        model: path and SHA-256 of the model.
        gallery: folder of the gallery.
        people: the people of the gallery that have a usable face.
        warnings: sentences about the gallery.
        threshold: the threshold of all tracks.
        sources: the results of each source.
        seconds: time that each stage took, over all sources.
        versions: versions of the packages that the results depend on.
    """

    command: str
    model: tuple[Path, str]
    gallery: Path
    people: tuple[GalleryPerson, ...]
    warnings: tuple[str, ...]
    threshold: Threshold
    sources: tuple[SourceResult, ...]
    seconds: dict[str, float]
    versions: dict[str, str]

    @property
    def num_frames(self) -> int:
        """Number of frames of all sources."""
        return sum(source.num_frames for source in self.sources)

    def stages(self) -> Iterator[tuple[str, float, float | None]]:
        """Yields each stage with its seconds, and its milliseconds per frame if it works on frames."""
        for stage, seconds in self.seconds.items():
            has_frames = stage not in (LOADING, GALLERY) and self.num_frames
            yield stage, seconds, 1000 * seconds / self.num_frames if has_frames else None


def write_tracks(run: IdentifyRun, path: Path) -> None:
    """Writes a run as JSON, without pictures."""
    write_json(path, _without_surrogates(tracks_json(run)))


def tracks_json(run: IdentifyRun) -> dict[str, Any]:
    """Returns a run as values for JSON."""
    return {
        "version": 1,
        "command": run.command,
        "model": {"path": str(run.model[0]), "sha256": run.model[1]},
        "threshold": dataclasses.asdict(run.threshold),
        "gallery": {
            "path": str(run.gallery),
            "people": [
                {"name": person.name, "files": list(map(str, person.files)), "faces": person.num_faces}
                for person in run.people
            ],
            "warnings": list(run.warnings),
        },
        "tracks": [_track_json(source, track, run) for source in run.sources for track in source.tracks],
        "sources": [
            {
                "path": str(source.path),
                "kind": source.kind,
                "error": source.error,
                "size": source.size,
                "frames": source.num_frames,
                "frames_searched": source.num_searched,
                "duration": source.duration,
                "in_gallery": source.in_gallery and str(source.in_gallery),
                "notes": list(source.notes),
                "seconds": _rounded(source.seconds),
            }
            for source in run.sources
        ],
        "seconds": _rounded(run.seconds),
        "versions": run.versions,
    }


def _track_json(source, track, run):
    runner_up = track.matches[1] if len(track.matches) > 1 else None
    return {
        "source": str(source.path),
        "track": track.number,
        "from": round(track.start, 3),
        "to": round(track.end, 3),
        "from_frame": track.first_frame,
        "to_frame": track.last_frame,
        "frames_used": track.frames_used,
        "name": track.name,
        "nearest": track.best and track.best.name,
        "similarity": track.best and round(track.best.similarity, 5),
        "runner_up": runner_up and runner_up.name,
        "runner_up_similarity": runner_up and round(runner_up.similarity, 5),
        "threshold": run.threshold.value,
        "rejected": track.rejected,
        "rejected_faces": [{"frame": face.frame, "reason": face.reason} for face in track.rejected_faces],
    }


def _rounded(seconds):
    return {stage: round(value, 3) for stage, value in seconds.items()}


def _without_surrogates(value: Any) -> Any:
    """Replaces characters that JSON cannot represent, which come from file names that are not UTF-8."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {_without_surrogates(key): _without_surrogates(item) for key, item in value.items()}
    return [_without_surrogates(item) for item in value] if isinstance(value, list | tuple) else value
