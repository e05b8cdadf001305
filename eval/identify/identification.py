"""Names the tracks of videos and pictures after the people of a gallery."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np

from eval.identify.results import (
    NAMING,
    UNKNOWN,
    Box,
    IdentifiedTrack,
    RejectedFace,
    ShownFace,
    SourceResult,
    Threshold,
)
from eval.recognition.gallery import Gallery
from eval.recognition.tracks import FoundTracks, Track
from eval.scoring.calibration import Calibration

NUM_FACES = 6  # faces to show of each track
NUM_MATCHES = 5  # people to keep for each track

_QUALITY = [cv2.IMWRITE_JPEG_QUALITY, 88]


def choose_threshold(calibration: Calibration, fpir: float, gallery: Gallery) -> Threshold:
    """Returns the threshold at which a stranger gets a name with probability `fpir`.

    The calibration gives a threshold for strangers like those in its pairs. The people of a gallery are
    strangers to one another, too. If one camera filmed them, or if they are of one family, they resemble one
    another more than the strangers of the calibration. Then the threshold rises by the difference of the two
    medians.

    Args:
        calibration: from the model card.
        fpir: in (0, 1).
        gallery: the known people.
    """
    point = calibration.threshold_for_fpir(fpir, len(gallery.people))
    kind = {"single": "single images", "template": "templates"}[calibration.kind]
    num_people = len(gallery.people)
    people = "one person" if num_people == 1 else f"{num_people} people"
    reasons = [
        f"{point.threshold:.3f} is the threshold for FPIR {fpir:g} and a gallery of {people}. "
        f"It was measured on the {kind} of {calibration.set}."
    ]
    if point.note:
        reasons.append(point.note)
    if calibration.kind != "template":
        reasons.append(
            "Templates of two strangers can be more similar than single images, so more strangers get "
            "a name. Measure thresholds of templates: export.calibrate with --splits."
        )
    value = point.threshold
    usual, here = float(np.median(calibration.impostor)), gallery.stranger_similarity
    if here is not None and here > usual:
        value += here - usual
        reasons.append(
            f"The threshold is raised by {here - usual:.3f}: the median similarity of two people of this "
            f"gallery is {here:.3f}, and that of two strangers of {calibration.set} is {usual:.3f}."
        )
    return Threshold(value, tuple(reasons), fpir, f"{kind}, {calibration.set}", point.threshold)


def identify(
    path: Path, find: Callable[[Path], FoundTracks], gallery: Gallery, threshold: float
) -> SourceResult:
    """Names the tracks of one source. If it cannot be read, the result says why.

    Args:
        path: a video, a picture or a folder of pictures.
        find: finds the tracks of a source, such as `find_tracks` with a model.
        gallery: the known people.
        threshold: a track with a lower similarity to all of them is unknown.
    """
    try:
        found = find(path)
    except (ValueError, OSError) as error:
        return SourceResult(path, error=str(error))
    start = time.perf_counter()
    tracks = sorted([*found.tracks, *found.rejected], key=lambda track: track.number)
    named = tuple(_name_track(track, gallery, threshold) for track in tracks)
    return SourceResult(
        path,
        found.source.kind,
        size=found.source.info.size if found.source.info else None,
        num_frames=found.num_frames,
        num_searched=found.num_searched,
        duration=found.duration,
        tracks=named,
        notes=tuple(_notes(found)),
        seconds={**found.seconds, NAMING: time.perf_counter() - start},
    )


def face_jpeg(face: np.ndarray) -> bytes:
    """Encodes a face, uint8 `(height, width, 3)`, RGB, as a JPEG file for the page."""
    return cv2.imencode(".jpg", face[..., ::-1], _QUALITY)[1].tobytes()


def _name_track(track: Track, gallery: Gallery, threshold: float) -> IdentifiedTrack:
    faces = [face for face in track.faces if face.rejected is None] or track.faces
    matches, name = (), None
    if track.template is not None:
        matches = gallery.rank(track.template, NUM_MATCHES)
        name = matches[0].name if matches[0].similarity >= threshold else UNKNOWN
    return IdentifiedTrack(
        track.number,
        faces[0].frame,
        faces[-1].frame,
        faces[0].time,
        faces[-1].time,
        int(np.count_nonzero(track.weights)),
        matches,
        name,
        track.rejected,
        tuple(_best_over_time(track)),
        tuple(
            RejectedFace(face.frame, face.time, face.rejected)
            for face in track.faces
            if face.rejected is not None
        ),
        tuple(Box(face.frame, *face.box.tolist()) for face in faces),
    )


def _best_over_time(track: Track) -> Iterator[ShownFace]:
    """Yields the best face of each of several equal parts of a track.

    The best faces of the whole track may all come from one moment.
    """
    images = {place: face.image for place, face in enumerate(track.faces) if face.image is not None}
    places = [place for place in images if track.weights[place] > 0] or list(images)
    for part in np.array_split(np.array(places, int), NUM_FACES):
        if not part.size:
            continue
        best = max(part.tolist(), key=lambda place: track.weights[place])
        yield ShownFace(track.faces[best].frame, track.faces[best].time, face_jpeg(images[best]))


def _notes(found: FoundTracks) -> Iterator[str]:
    yield from found.problems
    if not found.tracks:
        yield f"{found.source.path}: {found.why_empty}"
