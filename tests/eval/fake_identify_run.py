"""Makes runs like those of `eval.identify`, with random similarities and plain pictures."""

from pathlib import Path

import numpy as np

from eval.identify.identification import face_jpeg
from eval.identify.results import (
    UNKNOWN,
    GalleryPerson,
    IdentifiedTrack,
    IdentifyRun,
    RejectedFace,
    ShownFace,
    SourceResult,
    Threshold,
)
from eval.recognition.gallery import Match


def make_identify_run(names=("Anna", "Ben", "Carl"), num_sources=3, *, prefix="clips", text="", seed=0):
    """Makes a run in which each source shows known people, an unknown one, and a rejected track.

    The last three sources are a picture, a folder of pictures, and one that cannot be read.

    Args:
        names: people of the gallery.
        num_sources: number of videos.
        prefix: start of the paths.
        text: is added to every text.
    """
    rng = np.random.default_rng(seed)
    people = tuple(
        GalleryPerson(name, (Path(prefix, name, "1.jpg"),), 3, _face(40 * number, 96))
        for number, name in enumerate(names)
    )
    videos = [
        SourceResult(
            Path(prefix, f"video {number}{text}.mkv"),
            "video",
            size=(480, 640),
            num_frames=250,
            num_searched=50,
            duration=9.96 * 10**number,
            tracks=tuple(
                make_track(rng, names, kind, place, 10**number, text)
                for place, kind in enumerate(("known", "known", "unknown", "rejected"), 1)
            ),
            notes=(f"a note{text}",) if number else (),
        )
        for number in range(num_sources)
    ]
    others = [
        SourceResult(
            Path(prefix, f"picture{text}.jpg"),
            "picture",
            num_frames=1,
            tracks=(make_track(rng, names, "known"),),
        ),
        SourceResult(
            Path(prefix, f"folder{text}"),
            "folder",
            num_frames=40,
            tracks=(make_track(rng, names, "unknown"),),
        ),
        SourceResult(Path(prefix, f"damaged{text}.mkv"), error=f"damaged{text}"),
    ]
    return IdentifyRun(
        f"python -m eval.identify --gallery people {prefix}/*{text}",
        (Path(f"face{text}.onnx"), "0123456789abcdef" * 4),
        Path(prefix),
        people,
        (f"a warning{text}",),
        Threshold(0.45, (f"a reason{text}",), 0.01, "single images, lfw", 0.4),
        (*videos, *others),
        {"detecting": 12.5, "naming": 0.01},
        {"onnxruntime": "1.32", "av": "18.0"},
    )


def make_track(rng, names, kind, number=1, scale=1, text=""):
    similarities = np.sort(rng.uniform(-0.1, 0.35, len(names)))[::-1]
    if kind == "known":
        similarities[0] = rng.uniform(0.6, 0.95)
    order = rng.permutation(len(names))
    matches = tuple(Match(names[i], float(value)) for i, value in zip(order, similarities, strict=True))[:5]
    start, end = 2.5 * (number - 1) * scale, (2.5 * number - 1) * scale
    frames = np.linspace(60 * (number - 1), 60 * number - 20, 6).astype(int).tolist()
    name = {"known": matches[0].name, "unknown": UNKNOWN, "rejected": None}[kind]
    return IdentifiedTrack(
        number,
        frames[0],
        frames[-1],
        start,
        end,
        frames_used=6,
        matches=() if kind == "rejected" else matches,
        name=name,
        rejected=f"a reason{text}" if kind == "rejected" else None,
        faces=tuple(ShownFace(frame, start, _face(frame)) for frame in frames),
        rejected_faces=tuple(RejectedFace(frame, start, f"a flaw{text}") for frame in frames[:number]),
    )


def _face(grey, side=112):
    return face_jpeg(np.full((side, side, 3), grey % 256, np.uint8))
