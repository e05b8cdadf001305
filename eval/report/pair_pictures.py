"""Pictures of misclassified and of difficult pairs of videos."""

from pathlib import Path

import cv2
import numpy as np

from dataset.pairs.video_frames import VideoFrames
from eval.scoring.videos import VideoEvaluation

_GAP = 4  # pixels between two videos
_TEXT_HEIGHT = 24  # pixels
_HARDEST_FRAMES = 3  # of each video
_QUALITY = [cv2.IMWRITE_JPEG_QUALITY, 90]
_WHITE = (255, 255, 255)


def write_errors(folder: Path, frames: VideoFrames, evaluation: VideoEvaluation, method: str) -> None:
    """Writes a picture of each misclassified pair: the first frames, and the distance.

    References:
    - margin-centre-face, `eval/test_ytf.py` (pictures of the errors)

    Args:
        folder: a folder to make.
        frames: frames of the videos.
        evaluation: names the pairs.
        method: method of the distances.
    """
    folder.mkdir()
    pairs = evaluation.pairs
    for pair in evaluation.errors:
        videos = str(pairs.first[pair]), str(pairs.second[pair])
        distance = pairs.distances[method][pair]
        kind = "genuine" if pairs.is_same[pair] else "impostor"
        picture = _side_by_side([_decode(frames, video, [0]) for video in videos])
        # The number keeps names apart that differ in a slash only.
        name = f"{kind}_{distance:.4f}_{pair:06d}_{'_'.join(videos)}".replace("/", "-")
        _write(folder / f"{name[:200]}.jpg", _with_text(picture, f"{distance:.4f}"))


def write_hardest(folder: Path, frames: VideoFrames, evaluation: VideoEvaluation) -> None:
    """Writes the picture of each of the hardest pairs: a column for each video, of three frames.

    Args:
        folder: folder of the run.
        frames: frames of the videos.
        evaluation: names the pairs and the pictures.
    """
    pairs, hardest = evaluation.pairs, evaluation.hardest
    for entry in (*hardest.genuine, *hardest.impostor):
        columns = []
        for video in (str(pairs.first[entry.pair]), str(pairs.second[entry.pair])):
            length = len(_numbers(frames, video))
            # The middles of three parts; of a short video some frames come twice.
            middles = (2 * np.arange(_HARDEST_FRAMES) + 1) * length // (2 * _HARDEST_FRAMES)
            columns.append(_decode(frames, video, middles))
        path = folder / entry.picture
        path.parent.mkdir(exist_ok=True)
        _write(path, _side_by_side(columns))


def _numbers(frames, video):
    place = frames.videos.index(video)
    return range(frames.offsets[place], frames.offsets[place + 1])


def _decode(frames, video, places):
    numbers = [_numbers(frames, video)[place] for place in places]
    return [frames.decode(number, number + 1)[0] for number in numbers]


def _side_by_side(columns):
    columns = [np.concatenate(column) for column in columns]
    gap = np.full((len(columns[0]), _GAP, 3), _WHITE, np.uint8)
    return np.concatenate([columns[0], gap, columns[1]], axis=1)


def _with_text(picture, text):
    height, width = picture.shape[:2]
    font = {"fontFace": cv2.FONT_HERSHEY_SIMPLEX, "fontScale": 0.45, "thickness": 1}
    canvas = cv2.copyMakeBorder(picture, 0, _TEXT_HEIGHT, 0, 0, cv2.BORDER_CONSTANT, value=_WHITE)
    (text_width, text_height), _ = cv2.getTextSize(text, **font)
    place = ((width - text_width) // 2, height + (_TEXT_HEIGHT + text_height) // 2)
    return cv2.putText(canvas, text, place, **font, color=(0, 0, 0), lineType=cv2.LINE_AA)


def _write(path, picture):
    path.write_bytes(cv2.imencode(".jpg", picture[..., ::-1], _QUALITY)[1].tobytes())
