"""Pictures of misclassified and of difficult pairs of videos."""

from pathlib import Path

import cv2
import numpy as np

from common.files import MAX_NAME, cut_name, printable
from dataset.pairs.video_frames import VideoFrames
from eval.scoring.videos import VideoEvaluation

_GAP = 4  # pixels between two videos
_TEXT_HEIGHT = 24  # pixels
_HARDEST_FRAMES = 3  # of each video
_QUALITY = [cv2.IMWRITE_JPEG_QUALITY, 90]
_WHITE = (255, 255, 255)


def write_errors(folder: Path, frames: VideoFrames, evaluation: VideoEvaluation, method: str) -> None:
    """Writes a picture of each misclassified pair into a new folder: the first frames, and the distance.

    References:
    - margin-centre-face, `eval/test_ytf.py` (pictures of the errors)
    """
    folder.mkdir()
    pairs = evaluation.pairs
    for pair in evaluation.errors:
        videos = str(pairs.first[pair]), str(pairs.second[pair])
        distance = pairs.distances[method][pair]
        kind = "genuine" if pairs.is_same[pair] else "impostor"
        picture = _side_by_side([_column(frames, video, 1) for video in videos])
        # The number distinguishes names that differ only in a slash.
        name = f"{kind}_{distance:.4f}_{pair:06d}_{'_'.join(videos)}".replace("/", "-")
        name = cut_name(printable(name), MAX_NAME - len(".jpg"))
        _write(folder / f"{name}.jpg", _with_text(picture, f"{distance:.4f}"))


def write_hardest(folder: Path, frames: VideoFrames, evaluation: VideoEvaluation) -> None:
    """Writes the pictures of the hardest pairs into the folder of a run, with a column for each video."""
    pairs, hardest = evaluation.pairs, evaluation.hardest
    for entry in (*hardest.genuine, *hardest.impostor):
        videos = str(pairs.first[entry.pair]), str(pairs.second[entry.pair])
        path = folder / entry.picture
        path.parent.mkdir(exist_ok=True)
        _write(path, _side_by_side([_column(frames, video, _HARDEST_FRAMES) for video in videos]))


def _column(frames: VideoFrames, video: str, num_frames: int) -> np.ndarray:
    """Returns frames of a video, one below the other: the first, or the middles of equal parts."""
    start, stop = frames.offsets[frames.videos.index(video) :][:2]
    # A frame of a short video may come more than once.
    places = (2 * np.arange(num_frames) + 1) * (stop - start) // (2 * num_frames) if num_frames > 1 else [0]
    return np.concatenate([frames.decode(start + place, start + place + 1)[0] for place in places])


def _side_by_side(columns: list[np.ndarray]) -> np.ndarray:
    gap = np.full((len(columns[0]), _GAP, 3), _WHITE, np.uint8)
    return np.concatenate([columns[0], gap, columns[1]], axis=1)


def _with_text(picture: np.ndarray, text: str) -> np.ndarray:
    height, width = picture.shape[:2]
    font = {"fontFace": cv2.FONT_HERSHEY_SIMPLEX, "fontScale": 0.45, "thickness": 1}
    canvas = cv2.copyMakeBorder(picture, 0, _TEXT_HEIGHT, 0, 0, cv2.BORDER_CONSTANT, value=_WHITE)
    (text_width, text_height), _ = cv2.getTextSize(text, **font)
    place = ((width - text_width) // 2, height + (_TEXT_HEIGHT + text_height) // 2)
    return cv2.putText(canvas, text, place, **font, color=(0, 0, 0), lineType=cv2.LINE_AA)


def _write(path: Path, picture: np.ndarray) -> None:
    path.write_bytes(cv2.imencode(".jpg", picture[..., ::-1], _QUALITY)[1].tobytes())
