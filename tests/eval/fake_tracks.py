"""Makes tracks like those of `find_tracks`, from made-up templates, without pictures of people."""

from pathlib import Path

import numpy as np

from dataset.video import VideoInfo
from eval.recognition.faces import Face
from eval.recognition.sources import Source
from eval.recognition.tracks import STAGES, FoundTracks, Track

FPS = 10
SIZE = (48, 64)  # (height, width) of the frames


def unit(*numbers):
    vector = np.array(numbers, np.float64)
    return vector / np.linalg.norm(vector)


def make_track(template, frames=(0, 5, 10), *, number=1, rejected=None, left_out=(), side=20, grey=128):
    """Makes a track with a square box of `side` that moves right by a pixel per frame.

    Args:
        template: float `(dim,)`, of length 1.
        frames: numbers of the frames with a face.
        rejected: why the track is rejected.
        left_out: numbers of the frames whose face is rejected.
        grey: value of all pixels of the faces.
    """
    faces = [
        Face(
            frame=frame,
            time=frame / FPS,
            box=np.array([frame, 4, frame + side, 4 + side], float),
            points=np.zeros((5, 2)),
            score=0.99,
            image=np.full((112, 112, 3), grey, np.uint8),
            sharpness=1.0,
            frontality=1.0,
            rejected="it is blurred" if frame in left_out else None,
        )
        for frame in frames
    ]
    weights = np.array([0.0 if face.rejected else 1.0 for face in faces])
    return Track(
        number,
        faces,
        np.tile(template, (len(faces), 1)),
        weights / max(weights.sum(), 1),
        None if rejected else template,
        rejected,
    )


def make_found(path, *tracks, kind="video", num_frames=12, problems=()):
    info = VideoInfo(SIZE, FPS, num_frames / FPS, num_frames, "mpeg4") if kind == "video" else None
    return FoundTracks(
        Source(Path(path), kind, info, () if kind == "video" else (Path(path).name,)),
        num_frames,
        num_frames // 5 + 1,
        (num_frames - 1) / FPS,
        [track for track in tracks if track.rejected is None],
        [track for track in tracks if track.rejected is not None],
        list(problems),
        dict.fromkeys(STAGES, 0.5),
    )
