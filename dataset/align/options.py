"""Options of `python -m dataset.align`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from common.options import option
from dataset.images import MAX_PIXELS

IMAGE_SIZES = ((112, 112), (112, 96))


@dataclass(frozen=True, kw_only=True)
class FaceOptions:
    """Aligned faces."""

    image_size: tuple[int, int] = option(
        (112, 112), "size of the aligned faces: 112 112 or 112 96", nargs=2, metavar=("H", "W")
    )
    face: str = option(
        "central",
        "face to use if a picture shows several; central: the face nearest to the centre, for pictures like "
        "those of LFW and YouTube Faces, where a larger face may belong to someone else; biggest: the face "
        "with the largest box",
        choices=("central", "biggest"),
    )
    fallback: str = option(
        "none",
        "what to do with a picture in which no face is found; none: leave it out; centre: crop its centre, "
        "for pictures that were already cropped to a detector's box",
        choices=("none", "centre"),
    )
    quality: int = option(95, "JPEG quality", minimum=1, maximum=100)
    # The input of the detector's first net is 12 pixels wide.
    min_face_size: int = option(
        20, "smallest face to detect, in pixels; halving it takes four times as long", minimum=12
    )

    def problems(self) -> Iterator[str]:
        """Yields a sentence for each value out of range."""
        if self.image_size not in IMAGE_SIZES:
            yield "--image_size is {} {}. Give 112 112 or 112 96.".format(*self.image_size)


@dataclass(frozen=True, kw_only=True)
class AlignOptions:
    """Pictures to align and where the faces go."""

    src: Path = option(help="folder with .jpg, .jpeg and .png pictures, also in subfolders")
    dst: Path = option(help="folder for the faces: a new one, or one made with the same options")
    faces: FaceOptions = FaceOptions()
    max_pixels: int = option(
        MAX_PIXELS,
        "largest picture to decode, in pixels (height times width); larger ones count as unreadable",
        minimum=1,
    )
    workers: int | None = option(
        None, "number of processes, which does not affect the faces (default: one per core)", minimum=1
    )
