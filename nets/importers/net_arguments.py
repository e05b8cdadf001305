"""Checks a backbone's arguments that were read from a file, before the backbone is built."""

import json
from pathlib import Path
from typing import Any

from ..variants import STAGES, find_variant
from .restricted_pickle import brief

_FLOAT_BYTES = 4
_LARGEST_JSON = 1 << 20  # bytes


def read_small_json(path: Path) -> Any:
    """Parses a JSON file of at most 1 MB, such as the description of a net.

    Raises:
        ValueError: the file is larger, cannot be read or is not JSON.
    """
    try:
        if path.stat().st_size > _LARGEST_JSON:
            raise ValueError(f"more than {_LARGEST_JSON} bytes")
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: expected JSON, received {brief(error)}") from None


def check_net(net: Any, num_bytes: int) -> None:
    """Raises a `ValueError` unless the values describe a backbone whose weights can be in the file.

    Without this check, a few bytes of JSON could ask for a dense layer of any size.

    Args:
        net: parsed JSON, arguments of `nets.backbone.Backbone`.
        num_bytes: number of bytes of the files with the weights.
    """
    if not isinstance(net, dict) or not isinstance(net.get("architecture"), str):
        raise ValueError(f"expected a net with its architecture, received {brief(net)}")
    variant = find_variant(net["architecture"])
    image_size, embedding_size = (
        net.get("image_size", (112, 112)),
        net.get("embedding_size", variant.embedding_size),
    )
    sizes = [*image_size, embedding_size] if isinstance(image_size, list | tuple) else []
    if len(sizes) != 3 or not all(type(size) is int and size > 0 for size in sizes):
        raise ValueError(
            "expected an image_size of two positive integers and an embedding_size of one, "
            f"received {brief(image_size)} and {brief(embedding_size)}"
        )
    for name, kinds in (("seed", int), ("keep_prob", int | float)):
        if not isinstance(net.get(name, 1), kinds):
            raise ValueError(f"{name}: expected a number, received {brief(net[name])}")
    height, width, _ = sizes
    needed = _FLOAT_BYTES * _num_weights(variant, height, width, embedding_size)
    if needed > num_bytes:
        raise ValueError(
            f"images of {height}x{width} and an embedding_size of {embedding_size}: expected at least "
            f"{needed} bytes of weights, received {num_bytes} bytes"
        )


def _num_weights(variant, height, width, embedding_size):
    """Counts the weights of the layers whose size depends on the image and the embedding."""
    channels, cells = 512, -(-height // 16) * -(-width // 16)
    if variant.builder == "mobilefacenet":
        return channels * (cells + embedding_size)  # a depthwise conv, and the dense layer
    if variant.builder == "ghostfacenet":
        stride = 16 * variant.arguments["stem_stride"]
        cells = -(-height // stride) * -(-width // stride)
        return int(channels * variant.arguments["width"]) // 4 * 4 * (cells + embedding_size)
    if variant.builder == "vit":
        channels, cells = variant.arguments["width"], (height // 9) * (width // 9)
        return channels * (cells * (channels + 1) + embedding_size)
    if variant.builder == "imagenet_net":
        channels = 512 if "vgg" in variant.arguments["name"] else 2048
        cells = (height // 32) * (width // 32)  # a lower limit: VGG rounds down, ResNet rounds up
    elif variant.builder == "resnet_ir":
        channels = STAGES[variant.arguments["depth"]][-1][0] * variant.arguments.get("expansion", 1)
    return embedding_size * cells * channels
