"""Options of a conversion."""

import os
from collections.abc import Iterator
from dataclasses import dataclass

from common.options import option

# `dataset.images` and `dataset.sources.insightface_rec` define them, but `--help` must not wait for NumPy.
_VERIFY_LEVELS = ("full", "header")
_READERS = ("own", "mxnet")


@dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    """How to convert a source."""

    seed: int = option(0, "seed of the order of the images", type=int)
    images_per_shard: int = option(25_000, "largest number of images in a shard", type=int, metavar="N")
    workers: int = option(os.cpu_count() or 1, "number of worker processes", type=int, metavar="N")
    verify: str = option(
        "full", "decode every image, or check only its header and end", choices=_VERIFY_LEVELS
    )
    max_bad: float = option(
        0.001, "largest fraction of images that may be left out", type=float, metavar="FRACTION"
    )
    reader: str = option("own", "reader of .rec files; mxnet needs MXNet", choices=_READERS)
    overwrite: bool = option(False, "convert again what is already converted", action="store_true")

    def problems(self) -> Iterator[str]:
        """Yields one sentence for each value that is out of range."""
        for name, is_valid, expected in (
            ("seed", self.seed >= 0, "at least 0"),
            ("images_per_shard", self.images_per_shard >= 1, "at least 1"),
            ("workers", self.workers >= 1, "at least 1"),
            ("max_bad", 0 <= self.max_bad <= 1, "a fraction in [0, 1]"),
            ("verify", self.verify in _VERIFY_LEVELS, f"one of {_VERIFY_LEVELS}"),
            ("reader", self.reader in _READERS, f"one of {_READERS}"),
        ):
            if not is_valid:
                yield f"--{name}: expected {expected}, received {getattr(self, name)}."
