"""Options of a conversion."""

import os
from dataclasses import dataclass
from typing import Literal

from common.options import option


@dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    """Options of the conversion of a source."""

    seed: int = option(0, "seed of the order of the images", minimum=0)
    images_per_shard: int = option(25_000, "largest number of images in a shard", minimum=1)
    workers: int = option(os.cpu_count() or 1, "number of worker processes", minimum=1)
    verify: Literal["full", "header"] = option("full", "decode every image, or check only its header and end")
    max_bad: float = option(
        0.001, "largest fraction of images that may be left out", minimum=0, maximum=1, metavar="FRACTION"
    )
    reader: Literal["own", "mxnet"] = option("own", "reader of .rec files; mxnet needs MXNet")
    overwrite: bool = option(False, "convert again what is already converted")
