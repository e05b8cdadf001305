"""Checks the arguments of a backbone in a file before the backbone is built."""

import json
from pathlib import Path
from typing import Any

from ..variants import STAGES, find_variant
from .restricted_pickle import brief

_FLOAT_BYTES = 4
_LARGEST_JSON = 1 << 20  # bytes


def read_small_json(path: Path) -> Any:
    """Parses a JSON file of at most 1 MB, such as the description of a net; `ValueError` for another one."""
    try:
        if path.stat().st_size > _LARGEST_JSON:
            raise ValueError(f"more than {_LARGEST_JSON} bytes")
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: expected JSON, received {brief(error)}") from None


def check_net(net: Any, num_bytes: int) -> None:
    """Raises a `ValueError` unless the values can describe a backbone whose weights fit into the file.

    A few bytes can ask for a dense layer of any size.

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
            f"expected the weights of a net for images of {height}x{width} with an embedding_size of "
            f"{embedding_size}, at least {needed} bytes, received {num_bytes} bytes"
        )


def _num_weights(variant, height, width, embedding_size):
    """Returns the number of weights of the layers whose size depends on the image and the embedding."""
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
        cells = (height // 32) * (width // 32)  # of 48 pixels ResNet makes two, and VGG one
    elif variant.builder == "resnet_ir":
        channels = STAGES[variant.arguments["depth"]][-1][0] * variant.arguments.get("expansion", 1)
    return embedding_size * cells * channels
