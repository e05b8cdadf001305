"""Writes the HTML page of a run of `eval.identify`."""

from __future__ import annotations

import base64
import collections
import math
from dataclasses import dataclass
from pathlib import Path

from common.files import printable, write_file
from eval.identify.results import (
    TRACKS_NAME,
    UNKNOWN,
    GalleryPerson,
    IdentifiedTrack,
    IdentifyRun,
    SourceResult,
)
from eval.report.environment import TEMPLATES, loader

_NUM_COLOURS = 8  # --series-1 and so on
_MOST_TRACKS, _MOST_REJECTED = 40, 12  # tracks to show of a source; tracks.json has all of them
_MOST_PEOPLE = 200  # people to show of the gallery
_MOST_REASONS = 3  # reasons to show for faces that a track does not use

_PAGE = TEMPLATES.overlay(loader=loader(Path(__file__).with_name("templates")))


@dataclass(frozen=True)
class _Sighting:
    """A person in the table at the top of the page."""

    name: str
    sources: list[tuple[int, SourceResult]]  # with their positions on the page
    num_tracks: int
    seconds: float
    lowest: float
    highest: float


@dataclass(frozen=True)
class _Lane:
    """A row of a time line: a name and its tracks, with left edge and width in per cent of the source."""

    name: str
    blocks: list[tuple[IdentifiedTrack, float, float]]


def write_page(run: IdentifyRun, path: Path) -> None:
    """Writes a page that needs no other file. The same run gives the same bytes."""
    write_file(path, printable(identify_page(run)))


def identify_page(run: IdentifyRun) -> str:
    """Returns the page of a run."""
    numbers = {person.name: number for number, person in enumerate(run.people)}
    return _PAGE.get_template("identify.html").render(
        run=run,
        title=_title(run),
        sightings=_sightings(run),
        numbers=numbers,
        colours={name: number % _NUM_COLOURS + 1 for name, number in numbers.items()},
        lanes=_lanes,
        ticks=_ticks,
        clock=clock,
        base64=lambda content: base64.b64encode(content).decode(),
        shown_tracks=_shown_tracks,
        left_out=_left_out,
        pictured=_pictured(run),
        most_people=_MOST_PEOPLE,
        most_rejected=_MOST_REJECTED,
        tracks_name=TRACKS_NAME,
        unknown=UNKNOWN,
        percent=_percent,
        mosts=_most_similar(run),
    )


def clock(seconds: float) -> str:
    """Returns a time in a video, such as `0:03.4` or `1:02:03`.

    >>> clock(3.42), clock(3723)
    ('0:03.4', '1:02:03.0')
    """
    tenths = round(10 * seconds)
    hours, minutes = tenths // 36000, tenths // 600 % 60
    rest = f"{tenths % 600 // 10:02}.{tenths % 10}"
    return f"{hours}:{minutes:02}:{rest}" if hours else f"{minutes}:{rest}"


def _title(run):
    found = {track.name for source in run.sources for track in source.tracks if track.is_known}
    people = {0: "Nobody", 1: "1 person"}.get(len(found), f"{len(found)} people")
    kinds = {source.kind for source in run.sources}
    one, many = {("video",): ("video", "videos"), ("picture",): ("picture", "pictures")}.get(
        tuple(kinds), ("source", "sources")
    )
    return f"{people} found in {len(run.sources)} {one if len(run.sources) == 1 else many}"


def _pictured(run: IdentifyRun) -> list[GalleryPerson]:
    """Returns the people of the gallery whose faces are on the page."""
    tracks = [track for source in run.sources for track in _shown_tracks(source)[0]]
    matched = {match.name for track in tracks for match in track.matches}
    return [
        person for number, person in enumerate(run.people) if number < _MOST_PEOPLE or person.name in matched
    ]


def _sightings(run: IdentifyRun) -> list[_Sighting]:
    """Returns the people who were found, in the order of the gallery, and then the unknown ones."""
    found = collections.defaultdict(list)
    for place, source in enumerate(run.sources, 1):
        for track in source.named:
            found[track.name].append((place, source, track))
    order = [person.name for person in run.people if person.name in found] + [UNKNOWN] * (UNKNOWN in found)
    sightings = []
    for name in order:
        places = {place: source for place, source, _ in found[name]}
        similarities = [track.matches[0].similarity for _, _, track in found[name]]
        sightings.append(
            _Sighting(
                name,
                list(places.items()),
                len(found[name]),
                sum(track.end - track.start for _, _, track in found[name]),
                min(similarities),
                max(similarities),
            )
        )
    return sightings


def _lanes(source: SourceResult) -> list[_Lane]:
    """Returns the rows of a time line: the names in order of appearance, then the rejected tracks."""
    named = collections.defaultdict(list)
    for track in source.tracks:
        if source.kind == "video":
            start, end, whole = track.start, track.end, source.duration or 0
        else:
            start, end, whole = track.first_frame, track.last_frame + 1, source.num_frames
        left = 100 * start / whole if whole > 0 else 0
        width = 100 * (end - start) / whole if whole > 0 else 100
        named[track.name].append((track, min(left, 99), max(width, 1)))
    order = sorted(named, key=lambda name: (name is None, name == UNKNOWN))
    return [_Lane("rejected" if name is None else name, named[name]) for name in order]


def _ticks(source: SourceResult) -> list[tuple[str, float]]:
    """Returns the labels of a time axis and their positions in per cent."""
    if source.kind != "video":
        return [("first picture", 0)]
    duration = source.duration or 0
    step = next(
        (step for step in (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800) if duration / step <= 5), 3600
    )
    step *= max(1, math.ceil(duration / step / 6))
    times = range(0, int(duration) + 1, step)
    return [(clock(time).removesuffix(".0"), 100 * time / duration if duration else 0) for time in times]


def _shown_tracks(source: SourceResult) -> tuple[list[IdentifiedTrack], int]:
    """Returns the longest tracks, in the order of time, and how many are left out."""
    longest = sorted(source.named, key=lambda track: -track.frames_used)[:_MOST_TRACKS]
    return sorted(longest, key=lambda track: track.number), len(source.named) - len(longest)


def _left_out(track: IdentifiedTrack) -> tuple[list[str], int]:
    """Returns why a track does not use its first rejected faces, and the number of the other ones."""
    faces = track.rejected_faces[:_MOST_REASONS]
    return [f"{clock(face.time)}: {face.reason}" for face in faces], len(track.rejected_faces) - len(faces)


def _percent(similarity: float) -> float:
    """Returns the position of a similarity on an axis from 0 to 1, in per cent."""
    return round(100 * min(max(similarity, 0.0), 1.0), 2)


def _most_similar(run: IdentifyRun) -> list[tuple[str, list[tuple[str, float]]]]:
    """Returns the rows of the chart of all similarities: a label, and each track's person and similarity."""
    named = [track for source in run.sources for track in source.named]
    rows = [
        ("nearest", [track.matches[0] for track in named]),
        ("runner-up", [track.matches[1] for track in named if len(track.matches) > 1]),
    ]
    return [
        (label, [(match.name, match.similarity) for match in matches]) for label, matches in rows if matches
    ]
