"""Writes pictures of misclassified and of difficult pairs."""

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np

from common.files import MAX_NAME, cut_name, printable
from eval.scoring.evaluation_run import EvaluationRun, ScoredPairs

_GAP = 4  # pixels between two sides
_TEXT_HEIGHT = 24  # pixels
_HARDEST_FACES = 3  # faces to show of each video
_QUALITY = [cv2.IMWRITE_JPEG_QUALITY, 90]
_WHITE = (255, 255, 255)


def write_pictures(run: EvaluationRun, pairs: ScoredPairs, column: Callable[[str, int], np.ndarray]) -> None:
    """Writes pictures of the misclassified and of the hardest pairs into the folder of a run.

    The pictures in `errors/` show the first face of each side and the distance. Those in `hardest/` show more
    faces of each video.

    References:
    - margin-centre-face, `eval/test_ytf.py` (pictures of the errors)

    Args:
        run: the run.
        pairs: the pairs of the run, with the names that `column` knows.
        column: `column(name, num_faces)` returns this many faces of a video or image, one below the other, as
            uint8 `(height, width, 3)`, RGB.
    """

    def picture(pair: int, num_faces: int) -> np.ndarray:
        return side_by_side([column(str(names[pair]), num_faces) for names in (pairs.first, pairs.second)])

    folder = run.folder / "errors"
    folder.mkdir()
    for pair in np.flatnonzero(run.verdicts(run.scores.error_filter) == "wrong").tolist():
        names = f"{pairs.first[pair]}_{pairs.second[pair]}"
        distance = run.distances[pair]
        kind = "genuine" if pairs.is_same[pair] else "impostor"
        # The number distinguishes names that differ only in a slash.
        name = f"{kind}_{distance:.4f}_{pair:06d}_{names}".replace("/", "-")
        name = cut_name(printable(name), MAX_NAME - len(".jpg"))
        _write(folder / f"{name}.jpg", _with_text(picture(pair, 1), f"{distance:.4f}"))
    hardest = run.scores.hardest
    for entry in (*hardest.genuine, *hardest.impostor):
        path = run.folder / entry.picture
        path.parent.mkdir(exist_ok=True)
        _write(path, picture(entry.pair, _HARDEST_FACES))


def side_by_side(columns: Sequence[np.ndarray]) -> np.ndarray:
    """Joins two pictures of the same height, uint8 `(height, width, 3)`, with a white gap between them."""
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
