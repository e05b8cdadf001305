"""Options of a conversion."""

import os
from dataclasses import dataclass
from typing import Literal

from common.options import option


@dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    """Conversion."""

    seed: int = option(0, "seed of the random order of the images", minimum=0)
    images_per_shard: int = option(25_000, "largest number of images in a shard", minimum=1)
    workers: int = option(os.cpu_count() or 1, "number of worker processes", minimum=1)
    verify: Literal["full", "header"] = option(
        "full", "full decodes every image; header checks only the header and the end of the file"
    )
    max_bad: float = option(
        0.001,
        "largest fraction of images that may be damaged and left out",
        minimum=0,
        maximum=1,
        metavar="FRACTION",
    )
    reader: Literal["own", "mxnet"] = option(
        "own", "reader of .rec files: this project's own, or that of an installed MXNet"
    )
    overwrite: bool = option(False, "convert again even if the conversion is up to date")
