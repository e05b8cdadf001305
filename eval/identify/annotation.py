"""Writes copies of videos and pictures with a box and a name around every face."""

from __future__ import annotations

import bisect
import functools
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from common.files import write_file
from dataset.images import SUFFIXES
from dataset.video_writer import VIDEO_FORMATS, write_video
from eval.identify.results import IdentifiedTrack, SourceResult
from eval.recognition.sources import open_source

_UNKNOWN_COLOUR = (225, 225, 225)
_COLOURS = (  # of people, RGB, light enough for the dark text on them
    *((102, 194, 255), (255, 178, 102), (130, 230, 140), (255, 150, 200)),
    *((240, 225, 90), (190, 165, 255), (90, 225, 215), (255, 130, 120)),
)
_INK = (16, 18, 20)


def annotated_paths(target: Path, sources: Sequence[Path]) -> list[Path]:
    """Returns the path of the copy of each source.

    A target with the suffix of a video or picture is the copy of the only source. Any other target is a
    folder, and the copies are arranged in it like their sources. The copy of a video is an `.mp4` file, that
    of a picture is a `.jpg` file, and that of a folder of pictures is a folder.

    Raises:
        ValueError: a video would be copied to a picture or the other way round, one file is given for several
            sources, two sources would get the same copy, or a copy would replace a source.
    """
    if target.suffix.lower() in (*VIDEO_FORMATS, *SUFFIXES):
        if len(sources) > 1:
            raise ValueError(f"--video: {target} is one file for {len(sources)} sources. Give a folder.")
        is_picture = sources[0].suffix.lower() in SUFFIXES
        if sources[0].is_dir() or is_picture != (target.suffix.lower() in SUFFIXES):
            advice = "a folder" if sources[0].is_dir() else "a .jpg file" if is_picture else "an .mp4 file"
            raise ValueError(f"--video: {target} cannot be the copy of {sources[0]}. Give {advice}.")
        paths = [target]
    else:
        absolute = [Path(os.path.abspath(source)) for source in sources]  # noqa: PTH100 - links keep their names
        common = os.path.commonpath([source.parent for source in absolute])
        paths = [_copy_path(target / source.relative_to(common)) for source in absolute]
    for number, path in enumerate(paths):
        if path in paths[:number]:
            first = sources[paths.index(path)]
            raise ValueError(
                f"--video: {first} and {sources[number]} would get the same copy, {path}. Rename one."
            )
        if any(path.resolve() == source.resolve() for source in sources):
            raise ValueError(f"--video: {path} is a source. Give another path.")
    return paths


def _copy_path(path):
    if path.is_dir() or not path.suffix:
        return path
    return path.with_suffix(".jpg" if path.suffix.lower() in SUFFIXES else ".mp4")


def annotate(result: SourceResult, path: Path, people: Sequence[str]) -> None:
    """Writes a copy of a source in which every track that was not rejected has a box with its name.

    Between the frames in which a face was detected, its box moves evenly. A video keeps its times and loses
    its sound.

    Args:
        result: what was found in the source.
        path: file to write, or a folder for the pictures of a folder.
        people: names of the people of the gallery. Their order decides the colours.
    """
    source = open_source(result.path)
    painter = _Painter(result.named, {name: _COLOURS[i % len(_COLOURS)] for i, name in enumerate(people)})
    frames = source.frames(lambda _: None)  # The problems of the source are already reported.
    if source.kind == "video":
        write_video(path, ((painter.paint(frame.image, frame.number), frame.time) for frame in frames))
        return
    for frame in frames:
        target = path / source.names[frame.number] if source.kind == "folder" else path
        image = painter.paint(frame.image, frame.number)
        write_file(target, cv2.imencode(target.suffix, image[..., ::-1])[1].tobytes())


class _Painter:
    """Draws the boxes of tracks into frames.

    Args:
        tracks: the tracks to draw.
        colours: RGB colours of people, by name.
    """

    def __init__(self, tracks: Sequence[IdentifiedTrack], colours: dict[str, tuple[int, int, int]]) -> None:
        self._tracks = [(track, [box.frame for box in track.boxes]) for track in tracks]
        self._colours = colours

    def paint(self, image: np.ndarray, number: int) -> np.ndarray:
        """Returns a copy of a frame, uint8 `(height, width, 3)`, RGB, with the boxes for its number."""
        image = image.copy()
        for track, frames in self._tracks:
            if frames[0] <= number <= frames[-1]:
                colour = self._colours.get(track.name or "", _UNKNOWN_COLOUR)
                text = (
                    f"{track.name} {track.matches[0].similarity:.2f}" if track.is_known else f"{track.name}"
                )
                _draw(image, box_at(track, frames, number), text, colour)
        return image


def box_at(track: IdentifiedTrack, frames: Sequence[int], number: int) -> np.ndarray:
    """Returns the box of a track in a frame, interpolated between the frames where the face was detected.

    Args:
        track: the track.
        frames: the numbers of the frames of `track.boxes`.
        number: number of a frame, from the first to the last of `frames`.

    Returns:
        float `(4,)`: left, top, right, bottom, in pixels.
    """
    place = bisect.bisect_left(frames, number)
    corners = [
        np.array([box.left, box.top, box.right, box.bottom])
        for box in track.boxes[max(place - 1, 0) : place + 1]
    ]
    if len(corners) == 1:
        return corners[0]
    part = (number - frames[place - 1]) / (frames[place] - frames[place - 1])
    return corners[0] + part * (corners[1] - corners[0])


def _draw(image, box, text, colour):
    rows, columns = image.shape[:2]
    thickness = max(2, round(min(rows, columns) / 240))
    left, top, right, bottom = np.rint(box).astype(int).tolist()
    cv2.rectangle(image, (left, top), (right, bottom), colour, thickness, cv2.LINE_AA)
    letters = _letters(text, max(12, round(min(rows, columns) / 26)))
    margin = letters.shape[0] // 5
    height, width = letters.shape[0] + 2 * margin, letters.shape[1] + 2 * margin
    # The label is above the box, or inside the box at the upper edge of the picture.
    y = top - height if top >= height else max(top, 0)
    x = max(0, min(left - thickness // 2, columns - width))
    area = image[y : y + height, x : x + width]
    area[:] = colour
    inner = area[margin : margin + letters.shape[0], margin : margin + letters.shape[1]]
    cover = letters[: inner.shape[0], : inner.shape[1], None] / 255
    inner[:] = np.rint(inner * (1 - cover) + np.array(_INK) * cover)


@functools.lru_cache(maxsize=256)
def _letters(text: str, size: int) -> np.ndarray:
    """Draws a text with a font size in pixels: uint8 `(height, width)`, 255 where the ink is.

    OpenCV can draw only English letters. Matplotlib brings a font, and finds the fonts of the system.
    """
    from matplotlib import font_manager, ft2font

    default = font_manager.findfont("DejaVu Sans")
    paths = (default, *(entry.fname for entry in font_manager.fontManager.ttflist))
    path = next((path for path in paths if _has_letters(path, text)), default)
    font = ft2font.FT2Font(path)
    font.set_size(size, 72)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        font.set_text(text)
    font.draw_glyphs_to_bitmap(antialiased=True)
    return np.array(font.get_image())


def _has_letters(path, text):
    from matplotlib import ft2font

    try:
        font = ft2font.FT2Font(path)
    except (OSError, RuntimeError):  # FreeType cannot read some kinds of fonts.
        return False
    return all(font.get_char_index(ord(letter)) for letter in text)
