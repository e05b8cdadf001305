"""Writes verification sets: pairs from LFW, from YouTube Faces, or from your own images and videos.

    python -m dataset.build_pairs lfw --images 112x112 --pairs pairs.txt --out lfw.np
    python -m dataset.build_pairs ytf --prefix 112x112 --splits splits_corrected.txt --out ytf_img_pair.txt
    python -m dataset.build_pairs images --root people --out own.bin
    python -m dataset.build_pairs videos --root people_on_video --out splits.txt

The suffix of `--out` selects the format of image pairs: `.bin` is the format of InsightFace's sets, `.np` of
the original's `lfw.np`, and `.txt` of `ytf_img_pair.txt`. Pairs from your own data are drawn in folds that
share no identity.
"""

if not __package__:
    raise SystemExit("Start this program in the project's folder: python -m dataset.build_pairs")

import argparse
import logging
from collections.abc import Sequence

from common.options import exit_on_errors, parse_command
from dataset.build_pairs.build import build_images, build_lfw, build_videos, build_ytf
from dataset.build_pairs.options import ImagesOptions, LfwOptions, VideosOptions, YtfOptions

_COMMANDS = {"lfw": LfwOptions, "ytf": YtfOptions, "images": ImagesOptions, "videos": VideosOptions}
_BUILD = {
    LfwOptions: build_lfw,
    YtfOptions: build_ytf,
    ImagesOptions: build_images,
    VideosOptions: build_videos,
}


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the program. Raises `SystemExit` with a message if the pairs cannot be made."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser("python -m dataset.build_pairs", description="Writes verification sets.")
    options = parse_command(parser, _COMMANDS, argv)
    with exit_on_errors("dataset.build_pairs"):
        if options.out.exists() and not options.overwrite:
            raise FileExistsError(f"{options.out}: already exists. Give --overwrite to replace it.")
        options.out.parent.mkdir(parents=True, exist_ok=True)
        _BUILD[type(options)](options)


if __name__ == "__main__":
    main()
