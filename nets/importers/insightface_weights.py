"""Loads InsightFace's nets from PyTorch and ONNX files, and other MobileFaceNets from ONNX files."""

import functools
import logging
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from ..backbone import CONVS, Backbone
from ..iresnet import UNITS, WIDTHS
from ..layers.grouped_conv import GroupedConv
from ..mobilefacenet import STEM_WIDTH
from ..variants import VARIANTS
from ..vit import PATCH
from .model_files import input_format_path
from .onnx_graph import open_graph
from .onnx_iresnet import read_onnx_iresnet
from .onnx_mobilefacenet import read_onnx_mobilefacenet
from .pixels import INSIGHTFACE, UNCHANGED, Pixels, read_pixels
from .restricted_pickle import brief
from .shapes import STRIDE, Shapes, check_shapes, some
from .torch_file import TorchFile, TorchTensor

SUFFIXES = (".pth", ".pt", ".onnx")

_LEAVES = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
    "alphas": "weight",
    "tokens": None,  # the tensor has the name of the layer
}
# One tensor of each kind of net. A dict that contains one of them is a state_dict.
_MARKS = ("conv1.weight", "conv_sep.layers.0.weight", "patch_embed.proj.weight")
_IGNORED = "num_batches_tracked"  # a counter of each batch norm, which has no effect at this momentum

logger = logging.getLogger(__name__)


class Mapping(NamedTuple):
    """The variable that takes a PyTorch tensor: `variable.assign(transform(tensor))`.

    Attributes:
        variable: variable of the backbone.
        shape: shape of the tensor.
        transform: function that turns the tensor into the variable's value.
    """

    variable: Any
    shape: tuple[int, ...]
    transform: Callable[[np.ndarray], np.ndarray]


def torch_variables(backbone: keras.Model, pixels: Pixels = INSIGHTFACE) -> dict[str, Mapping]:
    """Maps the names of PyTorch's tensors, such as `layer1.0.bn1.running_mean`, to a backbone's variables.

    Kernels change from OIHW to HWIO, and the dense layer's inputs from CHW to HWC. The first kernel takes BGR
    instead of RGB, and `(pixel - 127.5) / 128` instead of `(pixel - 127.5) / 127.5`. So it is flipped and
    scaled by `128 / 127.5`. That is right at the edges, too, because both nets pad with zeros.

    Args:
        backbone: an iresnet, a MobileFaceNet or a vision transformer.
        pixels: the pixels that the tensors were trained on.
    """
    first = next(layer for layer in backbone.layers if isinstance(layer, CONVS))
    mappings = {}
    for layer in backbone.layers:
        for variable in layer.variables:
            if variable.name == "draws":  # the counter of a dropout layer, which PyTorch does not have
                continue
            shape, transform = tuple(variable.shape), np.asarray
            if len(shape) == 4:
                shape, transform = _kernel(layer)
                if layer is first:
                    transform = lambda tensor: pixels.stem_kernel(_conv_kernel(tensor))  # noqa: E731
            elif len(shape) == 2:
                shape = shape[::-1]
                transform = functools.partial(_dense_kernel, backbone.get_layer("flatten").input.shape[1:])
            leaf = _LEAVES[variable.name]
            mappings[f"{layer.name}.{leaf}" if leaf else layer.name] = Mapping(variable, shape, transform)
    return mappings


def load_insightface(path: str | Path) -> Backbone:
    """Loads an iresnet, a MobileFaceNet or a vision transformer, without running any code from the file.

    The architecture is inferred from the names and shapes of the tensors. Like all backbones here, the result
    takes BGR images, `(pixel - 127.5) / 128`. A file `NAME.onnx.input.json` says which pixels an ONNX file
    takes. If there is none, they are assumed to be InsightFace's. Norms that are folded into the convs of a
    MobileFaceNet stay folded, so that further training starts from the same function. The log says how many
    tensors were mapped and ignored.

    References:
    - InsightFace, `recognition/arcface_torch`: `train_v2.py` (the saved objects), `torch2onnx.py`

    Args:
        path: a `.onnx` file, or any other file with PyTorch's `state_dict`. The `state_dict` may be inside a
            dict with other objects, and its names may begin with `module.`.

    Returns:
        The backbone, float32.

    Raises:
        FileNotFoundError: the file does not exist.
        ModuleNotFoundError: it is an ONNX file, and the package `onnx` is not installed.
        ValueError: the file is damaged, contains another net or lacks tensors.
    """
    path = Path(path)
    if path.suffix == ".onnx":
        return _load_onnx(path)
    with TorchFile(path) as file:
        tensors = _find_state_dict(path, file.contents)
        shapes = {name: tensor.shape for name, tensor in tensors.items()}
        return _build(path, shapes, lambda name: file.read(tensors[name]))


def _load_onnx(path):
    pixels = read_pixels(path)
    graph = open_graph(path)
    arguments = {}
    if graph.has_groups:
        shapes, read, arguments, scale, offset = read_onnx_mobilefacenet(graph)
    else:
        arrays, scale, offset = read_onnx_iresnet(graph)
        shapes, read = {name: array.shape for name, array in arrays.items()}, arrays.__getitem__
    normalises = (scale, offset) != (1, 0)
    if pixels is None and not normalises:
        missing = input_format_path(path)
        logger.info("%s does not exist: assuming InsightFace's pixels, RGB, (pixel - 127.5) / 127.5", missing)
    pixels = pixels or (UNCHANGED if normalises else INSIGHTFACE)
    return _build(path, shapes, read, arguments, pixels.after(scale, offset))


def _build(path, shapes, read, arguments=None, pixels=INSIGHTFACE):
    ignored = {name for name in shapes if name.endswith(f".{_IGNORED}")}
    try:
        net = {**identify_net(shapes), **(arguments or {})}
        _check_size(net, shapes)
        if net["architecture"].startswith("iresnet"):
            _check_centre(pixels)
        else:
            net |= pixels.arguments()
        backbone = Backbone(**net)
        mappings = torch_variables(backbone, pixels)
        check_shapes(shapes, {name: mapping.shape for name, mapping in mappings.items()})
        if unknown := sorted(shapes.keys() - ignored - mappings.keys()):
            raise ValueError(f"{backbone.architecture} has no {some(unknown)}")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    # One tensor at a time, because a hostile file may name the same bytes many times.
    for name, mapping in mappings.items():
        mapping.variable.assign(mapping.transform(read(name).astype(np.float32)))
    logger.info("net: %s", backbone.net)
    logger.info("mapped: %d tensors, none missing", len(mappings))
    logger.info("ignored: %d %s", len(ignored), _IGNORED)
    return backbone


def _check_centre(pixels):
    """Raises a `ValueError` unless the zeros that convs pad with stand for the same grey in both nets."""
    if pixels.arguments():
        scale, mean = pixels.scale[0], pixels.mean[0]
        received = f"pixel * {1 / scale:g} + {-mean / scale:g}"
        raise ValueError(f"the pixels: expected (pixel - 127.5) * scale, received {received}")


def identify_net(shapes: Shapes) -> dict:
    """Infers the arguments of `Backbone` from the names and shapes of a net's tensors.

    The size of the image follows from the inputs of an iresnet's dense layer (512 x 7 x 7 stands for 112),
    from a MobileFaceNet's kernel over the whole feature map, or from the number of a transformer's positions.
    Images of iresnets and transformers are assumed to be square.

    Raises:
        ValueError: the shapes are not those of an iresnet, MobileFaceNet or vision transformer.
    """
    if _MARKS[1] in shapes:
        return _identify_mobilefacenet(shapes)
    return _identify_vit(shapes) if _MARKS[2] in shapes else _identify_iresnet(shapes)


def _identify_vit(shapes):
    blocks = {found[1] for name in shapes if (found := re.match(r"blocks\.(\d+)\.", name))}
    kernel, positions, last = (shapes.get(name, ()) for name in (_MARKS[2], "pos_embed", "feature.2.weight"))
    if list(map(len, (kernel, positions, last))) != [4, 3, 2]:
        received = f"{kernel}, {positions} and {last}"
        names = f"{_MARKS[2]}, pos_embed and feature.2.weight"
        raise ValueError(f"{names}: expected 4, 3 and 2 axes, received shapes {received}")
    arguments, side = {"width": kernel[0], "depth": len(blocks)}, math.isqrt(positions[1])
    name = _find_variant("vit", arguments)
    # 12 patches have 108 pixels, but the images have 112. The last 4 fill no patch.
    size = 112 if side == 12 else PATCH * side
    return {"architecture": name, "image_size": (size, size), "embedding_size": last[0]}


def _identify_mobilefacenet(shapes):
    blocks = [0] * 4
    for name in shapes:
        if found := re.fullmatch(r"layers\.([1357])\.layers\.\d+\.layers\.0\.layers\.0\.weight", name):
            blocks[int(found[1]) // 2] += 1
    if "layers.1.layers.0.weight" in shapes:
        blocks[0] = 1  # the conv in groups
    arguments = {
        "width": shapes.get("layers.0.layers.0.weight", (0,))[0] / STEM_WIDTH,
        "blocks": tuple(blocks),
    }
    name = _find_variant("mobilefacenet", arguments)
    sizes = [shapes.get(key, ()) for key in ("features.layers.0.layers.0.weight", "features.layers.2.weight")]
    if list(map(len, sizes)) != [4, 2]:
        raise ValueError(f"features: expected a depthwise conv and a dense layer, received shapes {sizes}")
    height, width = sizes[0][2:]
    return {
        "architecture": name,
        "image_size": (STRIDE * height, STRIDE * width),
        "embedding_size": sizes[1][0],
    }


def _find_variant(builder, arguments):
    """Returns the name of the backbone that a builder makes with these arguments."""
    known = {name: variant.arguments for name, variant in VARIANTS.items() if variant.builder == builder}
    for name, expected in known.items():
        if expected == arguments:
            return name
    expected = "; ".join(f"{arguments} ({name})" for name, arguments in known.items())
    raise ValueError(f"expected one of {expected}; received {arguments}")


def _identify_iresnet(shapes):
    units = [0] * len(WIDTHS)
    for name in shapes:
        if found := re.fullmatch(r"layer([1-4])\.\d+\.conv1\.weight", name):
            units[int(found[1]) - 1] += 1
    depth = next((depth for depth, expected in UNITS.items() if tuple(units) == expected), None)
    if depth is None:
        expected = ", ".join(f"{counts} ({depth})" for depth, counts in UNITS.items())
        raise ValueError(f"expected an iresnet with units {expected}; received units {tuple(units)}")
    shape = shapes.get("fc.weight", ())
    if len(shape) != 2:
        raise ValueError(f"fc.weight: expected shape (embedding_size, inputs), received {shape}")
    embedding_size, inputs = shape
    side = math.isqrt(inputs // WIDTHS[-1])
    if inputs == 0 or inputs != WIDTHS[-1] * side * side:
        raise ValueError(f"fc.weight: expected {WIDTHS[-1]} x n x n inputs, received {inputs}")
    return {
        "architecture": f"iresnet{depth}",
        "image_size": (STRIDE * side, STRIDE * side),
        "embedding_size": embedding_size,
    }


def _check_size(net, shapes):
    """Raises a `ValueError` if a small file names a large net, before the net is built."""
    arguments = VARIANTS[net["architecture"]].arguments
    if net["architecture"].startswith("iresnet"):
        # These are about half of the weights of the 3x3 convs.
        units = UNITS[arguments["depth"]]
        fewest = sum(count * 9 * width**2 for count, width in zip(units, WIDTHS, strict=True))
    elif net["architecture"].startswith("vit"):
        fewest = arguments["depth"] * 12 * arguments["width"] ** 2
    else:
        fewest = 0  # all MobileFaceNets are small
    received = sum(map(math.prod, shapes.values()))
    if received < fewest:
        raise ValueError(f"expected at least {fewest} weights of {net['architecture']}, received {received}")


def _find_state_dict(path, contents):
    contents = contents if isinstance(contents, dict) else {}
    # By `id`, so that a dict under several names counts once.
    inner = {id(value): value for value in contents.values() if isinstance(value, dict)}
    dicts = [contents, *inner.values()]
    found = [state for state in map(_tensors, dicts) if any(mark in state for mark in _MARKS)]
    if len(found) != 1:
        received = some([name if isinstance(name, str) else brief(name) for name in contents]) or "no dict"
        raise ValueError(
            f"{path}: expected one state_dict with {' or '.join(_MARKS)}, received {len(found)}: {received}"
        )
    return found[0]


def _tensors(state):
    return {
        name.removeprefix("module."): tensor
        for name, tensor in state.items()
        if isinstance(name, str) and isinstance(tensor, TorchTensor)
    }


def _kernel(layer):
    """Returns the shape of PyTorch's kernel, OIHW, and a function that turns it into the layer's."""
    height, width, inputs, outputs = layer.kernel.shape
    if isinstance(layer, GroupedConv):
        shape = (inputs, outputs, height, width)
        return (
            shape,
            lambda tensor: (
                tensor.reshape(-1, outputs, outputs, height, width)
                .transpose(3, 4, 0, 2, 1)
                .reshape(layer.kernel.shape)
            ),
        )
    if isinstance(layer, keras.layers.DepthwiseConv2D):
        return (inputs, 1, height, width), lambda tensor: tensor.transpose(2, 3, 0, 1)
    return (outputs, inputs, height, width), _conv_kernel


def _conv_kernel(tensor):
    return tensor.transpose(2, 3, 1, 0)


def _dense_kernel(feature_shape, tensor):
    if len(feature_shape) < 3:  # tokens, which PyTorch flattens in the same order
        return tensor.T
    height, width, channels = feature_shape
    return tensor.reshape(-1, channels, height, width).transpose(2, 3, 1, 0).reshape(-1, len(tensor))
