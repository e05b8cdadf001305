"""Writes drawn faces in the formats of the real sets.

Every writer takes a function `draw(jobs, name)` that yields one JPEG per job, in order. A job is
`(identity, number)` for an image, or `(identity, video, frame, num_frames)` for a frame of a video.
"""

import itertools
import pickle
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np

from dataset.images import decode_picture
from dataset.pairs.video_pairs import write_video_pairs
from dataset.records.recordio import RecordWriter, pack_image
from dataset.synthetic.canvas import IMAGE_SIZE

Draw = Callable[[list[tuple], str], Iterable[bytes]]

NUM_FOLDS = 10

_MAX_VIDEO_PAIRS = 2500  # of one kind, as YouTube Faces has
_SHEET_SIZE = (12, 12)
_SYLLABLES = ("ra", "lo", "mi", "te", "ku", "so", "da", "vi", "ne", "ba", "po", "ri", "gu", "fe", "zo", "ha")

CONFIG = """\
; Made by dataset.synthetic. Relative paths start at this file's folder.

[records]
tfrecords = ./tfrecords

[vgg]
mxrec = ./vgg

[ms1m]
mxrec = ./ms1m

[lfw]
enable = true
npdata = ./lfw.np
npdata_order = rgb

[ytf]
enable = true
pairs = ./ytf/ytf_img_pair.txt
prefix = ./ytf/112x112
splits = ./ytf/splits.txt
"""


def write_source(folder: Path, draw: Draw, identities: Sequence[int], sizes: Sequence[int]) -> None:
    """Writes a training source in the InsightFace layout: `train.rec`, `train.idx` and `property`.

    `sizes` contains the number of images of each identity. The label of an identity is its position in
    `identities`.
    """
    folder.mkdir()
    labels = np.repeat(np.arange(len(sizes)), sizes).tolist()
    jobs = [
        (identity, number) for identity, size in zip(identities, sizes, strict=True) for number in range(size)
    ]
    first, last = len(jobs) + 1, len(jobs) + 1 + len(sizes)
    with RecordWriter(folder / "train.rec") as writer:
        writer.write(0, pack_image((first, last), 0, b""))
        for key, (label, image) in enumerate(zip(labels, draw(jobs, folder.name), strict=True), start=1):
            writer.write(key, pack_image(label, key, image))
        stops = np.cumsum(sizes) + 1
        for key, stop, size in zip(range(first, last), stops, sizes, strict=True):
            writer.write(key, pack_image((stop - size, stop), key, b""))
    height, width = IMAGE_SIZE
    (folder / "property").write_text(f"{len(sizes)},{height},{width}")


def write_pairs(
    folder: Path, draw: Draw, identities: Sequence[int], num_pairs: int, rng: np.random.Generator
) -> None:
    """Writes the same pairs to `lfw.np` and `lfw.bin`. Half are genuine, and no image occurs twice.

    `num_pairs` is a multiple of 20, and there are at least 2 identities.
    """
    half = num_pairs // 2
    pairs = [(identities[i % len(identities)],) * 2 for i in range(half)]
    pairs += [rng.choice(identities, 2, replace=False).tolist() for _ in range(half)]
    numbers = {identity: itertools.count() for identity in identities}
    images = list(draw([(identity, next(numbers[identity])) for pair in pairs for identity in pair], "lfw"))
    images = list(zip(images[::2], images[1::2], strict=True))

    decoded = [[decode_picture(first), decode_picture(second)] for first, second in images]
    (folder / "lfw.np").write_bytes(pickle.dumps((decoded[:half], decoded[half:])))
    # InsightFace's sets are ordered by fold, with the genuine pairs of each fold first.
    order = np.arange(num_pairs).reshape(2, NUM_FOLDS, -1).swapaxes(0, 1).ravel()
    bins = [image for pair in order for image in images[pair]]
    (folder / "lfw.bin").write_bytes(pickle.dumps((bins, (order < half).tolist())))


def write_videos(
    folder: Path,
    draw: Draw,
    identities: Sequence[int],
    num_videos: int,
    num_frames: int,
    rng: np.random.Generator,
) -> None:
    """Writes videos as folders of frames, splits for testing, and image pairs for validation.

    There are at least 2 identities, each with `num_videos` >= 2 videos of `num_frames` frames.
    """
    jobs = list(itertools.product(identities, range(num_videos), range(num_frames), [num_frames]))
    for (identity, video, frame, _), image in zip(jobs, draw(jobs, folder.name), strict=True):
        path = folder / "112x112" / _frame_path((identity, video), frame)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image)

    splits, image_pairs = [], []
    for split, pairs in enumerate(_video_pairs(identities, num_videos, rng), start=1):
        for first, second in pairs:
            same = int(first[0] == second[0])
            splits.append((split, _video_path(first), _video_path(second), same))
            frames = rng.integers(num_frames, size=2)
            image_pairs.append(f"{same},{_frame_path(first, frames[0])},{_frame_path(second, frames[1])}\n")
    write_video_pairs(folder / "splits.txt", splits)
    (folder / "ytf_img_pair.txt").write_text("".join(image_pairs))


def write_sheet(path: Path, draw: Draw, identities: Sequence[int], num_images: int) -> None:
    """Writes a contact sheet as a PNG: the first images of the first identities, one identity per row."""
    rows, columns = min(_SHEET_SIZE[0], len(identities)), min(_SHEET_SIZE[1], num_images)
    jobs = list(itertools.product(identities[:rows], range(columns)))
    images = np.stack([decode_picture(image) for image in draw(jobs, path.stem)])
    height, width = IMAGE_SIZE
    sheet = images.reshape(rows, columns, height, width, 3).swapaxes(1, 2)
    sheet = sheet.reshape(rows * height, columns * width, 3)
    path.write_bytes(cv2.imencode(".png", sheet[..., ::-1])[1].tobytes())


def _video_pairs(identities, num_videos, rng):
    """Returns ten splits of pairs of videos `(identity, number)`: half genuine, then half impostor pairs."""
    positives = [
        ((identity, first), (identity, second))
        for identity in identities
        for first, second in itertools.combinations(range(num_videos), 2)
    ]
    size = min(len(positives), _MAX_VIDEO_PAIRS) // NUM_FOLDS
    positives = [positives[i] for i in rng.permutation(len(positives))]
    negatives = {}  # a dict, because it keeps the order and a set does not
    while len(negatives) < NUM_FOLDS * size:
        pair = sorted(rng.choice(identities, 2, replace=False).tolist())
        negatives[tuple(zip(pair, rng.integers(num_videos, size=2).tolist(), strict=True))] = None
    negatives = list(negatives)
    return [
        positives[start : start + size] + negatives[start : start + size]
        for start in range(0, NUM_FOLDS * size, size)
    ]


def _video_path(video):
    return f"{identity_name(video[0])}/{video[1]}"


def _frame_path(video, frame):
    return f"{_video_path(video)}/{video[1]}.{frame:04d}.jpg"


def identity_name(identity: int) -> str:
    """Returns a made-up name. The family name spells the identity's number in syllables, so it is unique."""
    # Multiplying by an odd factor permutes the numbers below 4096, so that neighbours sound different.
    digits = [identity * 1597 % 4096 // base % 16 for base in (1, 16, 256)]
    rest = identity // 4096
    while rest:
        digits.append(rest % 16)
        rest //= 16
    given = _SYLLABLES[identity * 7 % 16] + _SYLLABLES[identity * 5 % 13] + "lnst"[identity % 4]
    return f"{given.capitalize()}_{''.join(_SYLLABLES[digit] for digit in digits).capitalize()}"
