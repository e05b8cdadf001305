"""Options of `python -m dataset.build_pairs`, one class per command."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from common.options import option
from dataset.pairs.pair_files import PAIR_SUFFIXES


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """Output options of every command."""

    out: Path = option(help="file to write")
    overwrite: bool = option(False, "replace an existing file")


@dataclass(frozen=True, kw_only=True)
class ImagePairOptions(OutputOptions):
    """Output options of the commands that write pairs of images."""

    out: Path = option(help="file to write: .bin, .np or .txt")

    def problems(self) -> Iterator[str]:
        """Yields a sentence for each value out of range."""
        if self.out.suffix not in PAIR_SUFFIXES:
            yield f"--out is {self.out}. Give a name that ends with {' or '.join(PAIR_SUFFIXES)}."


@dataclass(frozen=True, kw_only=True)
class PublishedPairOptions(ImagePairOptions):
    """Options of the commands for published pairs, whose files a config can name."""

    config: Path = option(Path("./config.ini"), "configuration with the paths that are not given as flags")
    allow_missing: bool = option(False, "leave out pairs whose images or frames are missing")


@dataclass(frozen=True, kw_only=True)
class LfwOptions(PublishedPairOptions):
    """Writes the official pairs of LFW, or other pairs in the format of pairs.txt."""

    images: Path | None = option(
        None, "folder with images Name/Name_0001.jpg, .jpeg or .png (default: [lfw] prefix)"
    )
    pairs: Path | None = option(None, "list of pairs, such as the official pairs.txt (default: [lfw] pairs)")


@dataclass(frozen=True, kw_only=True)
class YtfOptions(PublishedPairOptions):
    """Writes pairs of frames for the official pairs of YouTube Faces, one frame of each video."""

    prefix: Path | None = option(None, "folder with Name/number/frame.jpg (default: [ytf] prefix)")
    splits: Path | None = option(
        None, "list of video pairs, such as splits_corrected.txt (default: [ytf] splits)"
    )
    frame: str = option("first", "which frame of each video to use", choices=("first", "middle", "random"))
    seed: int = option(0, "seed of the choice of random frames")


@dataclass(frozen=True, kw_only=True)
class ImagesOptions(ImagePairOptions):
    """Writes pairs of your own images."""

    root: Path = option(help="folder with identity/image.jpg")
    folds: int = option(10, "number of folds; the evaluation uses ten", minimum=2)
    pairs_per_fold: int = option(300, "largest number of pairs of each kind in a fold", minimum=1)
    seed: int = option(0, "another seed draws other pairs", minimum=0)


@dataclass(frozen=True, kw_only=True)
class VideosOptions(OutputOptions):
    """Writes splits of your own videos."""

    root: Path = option(help="folder with identity/video/frame.jpg")
    splits: int = option(10, "number of splits", minimum=2)
    pairs_per_split: int = option(250, "largest number of pairs of each kind in a split", minimum=1)
    seed: int = option(0, "another seed draws other pairs", minimum=0)
