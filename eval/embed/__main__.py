"""Embeds the faces in pictures and videos, and writes the embeddings into one file for NumPy.

    python -m eval.embed photos faces.npz --model_path face.onnx

A picture gives one row, for its central face. A video gives one row for each person, with the template of a
track. To resume an interrupted run, give the same command again.
"""

if not __package__:
    raise SystemExit("Start this program in the project's folder: python -m eval.embed")

import argparse
import dataclasses
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from common.options import exit_on_errors, option, parse_options
from eval.embed.rows import COLUMNS
from eval.embed.run import LIST_SUFFIX, RowOptions, describe, embed_files, find_files
from eval.embedding.embedder import load_embedder
from eval.embedding.engines import EngineOptions
from eval.recognition.tracks import TrackOptions


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmbedOptions:
    """Files, model and output."""

    src: Path = option(
        help=f"folder of pictures and videos, also in its subfolders; {LIST_SUFFIX} file with a list of "
        "paths; picture; or video",
        flags=("src",),
        metavar="SRC",
    )
    out: Path = option(help="file to write", flags=("out",), metavar="OUT.npz")
    model_path: Path = option(help="a model in any format that eval.test_lfw reads")
    aligned: bool = option(
        False, "the pictures are aligned faces: detect no faces, and crop larger pictures to their centre"
    )
    face: str = option(
        "central",
        "which face to embed if a picture shows several",
        choices=("central", "biggest"),
    )
    every_face: bool = option(False, "write a row for each face of a video instead of one for each person")
    flip: bool = option(False, "add the embedding of each face's mirror image")
    batch_size: int = option(
        64, "pictures to embed and save at a time; a killed run repeats those not yet saved", minimum=1
    )
    workers: int | None = option(
        None,
        "number of processes that find faces in pictures; does not change the result (default: one per core)",
        minimum=1,
    )
    overwrite: bool = option(False, "replace an existing file that has other inputs or options")
    tracks: TrackOptions
    engine: EngineOptions

    def problems(self) -> Iterator[str]:
        """Yields a sentence for each wrong value."""
        if self.out.suffix != ".npz":
            yield f"OUT is {self.out}. Give a name that ends in .npz."
        if self.aligned and self.every_face:
            yield "--aligned is for pictures, and --every_face for videos. Leave one of them out."


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the program. Raises `SystemExit` with a message if no file has a usable face."""
    columns = " ".join(f"{name}: {column.meaning}." for name, column in COLUMNS.items())
    parser = argparse.ArgumentParser(
        prog="python -m eval.embed",
        description="Embeds the faces in pictures and videos, and writes the embeddings into one file for "
        "NumPy. To resume an interrupted run, give the same command again.",
        epilog=f"Arrays in the file, with one entry for each face or person: {columns} Also in the file: "
        "failed_names and failed_reasons: the files without a row. settings: inputs and options as JSON.",
    )
    options = parse_options(parser, EmbedOptions, argv)
    logging.basicConfig(format="%(message)s")
    for name in ("common", "eval"):
        logging.getLogger(name).setLevel(logging.INFO)
    with exit_on_errors("eval.embed"):
        files = find_files(options.src, options.aligned)
        embedder = load_embedder(
            options.model_path, flip=options.flip, engine=options.engine, batch_size=options.batch_size
        )
        rows = RowOptions(
            aligned=options.aligned, face=options.face, every_face=options.every_face, tracks=options.tracks
        )
        arrays = embed_files(
            files, options.out, embedder, rows, workers=options.workers, overwrite=options.overwrite
        )
        print("\n".join(describe(arrays)))
        print(options.out)


if __name__ == "__main__":
    main()
