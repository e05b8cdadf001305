"""Converts training images to sharded, shuffled TFRecords."""

from typing import TYPE_CHECKING

from dataset.convert.options import ConvertOptions

if TYPE_CHECKING:
    from dataset.convert.sources import convert, convert_sources

__all__ = ["ConvertOptions", "convert", "convert_sources"]


def __getattr__(name):
    # `--help` must not wait for NumPy and the codecs.
    if name in ("convert", "convert_sources"):
        from dataset.convert import sources

        return getattr(sources, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
