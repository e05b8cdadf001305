"""Writes tiny nets as ONNX, TFLite and OpenVINO files. Tests can compute their embeddings themselves."""

import json

import numpy as np

FACES = np.random.default_rng(0).integers(0, 256, (5, 12, 10, 3), np.uint8)
FORMAT = {"channels": "rgb", "layout": "nchw", "mean": [123.0, 117.0, 104.0], "scale": [58.0, 57.0, 56.0]}
SUFFIXES = (".onnx", ".tflite", ".xml")


def write_net(path, image_size=(12, 10), batch=None, layout="nchw", ours=False, described=True, **changes):
    """Writes a net whose embedding consists of the means of each quarter of the image in each channel.

    Args:
        path: its suffix selects the kind of file.
        image_size: `(height, width)`; `None` leaves a side open.
        batch: the only batch size that the net takes.
        ours: whether the net takes uint8 pixels and gives `embedding` and `norm`, like the files of our
            exporters.
        described: whether to write the description of the input.
        **changes: values to change in the description.
    """
    layout = "nhwc" if ours else layout
    height, width = image_size
    shape = (batch, height, width, 3) if layout == "nhwc" else (batch, 3, height, width)
    {".onnx": _write_onnx, ".tflite": _write_tflite, ".xml": _write_openvino}[path.suffix](path, shape, ours)
    if described and not ours:
        describe(path, layout=layout, **changes)
    return path


def describe(path, **changes):
    path.with_name(f"{path.name}.input.json").write_text(json.dumps({**FORMAT, **changes}))


def expected(faces, channels="rgb", plain=False):
    """Returns the embeddings that a net of `write_net` has for faces of 12x10."""
    pixels = (faces if channels == "rgb" else faces[..., ::-1]).astype(np.float64)
    images = pixels if plain else (pixels - np.array(FORMAT["mean"])) / np.array(FORMAT["scale"])
    quarters = images.reshape(len(faces), 2, 6, 2, 5, 3).mean(axis=(2, 4))
    return quarters.transpose(0, 3, 1, 2).reshape(len(faces), 12)


def _write_onnx(path, shape, ours):
    import onnx
    from onnx import TensorProto, helper

    kind = TensorProto.UINT8 if ours else TensorProto.FLOAT
    nodes = [
        helper.make_node("Cast", ["images"], ["cast"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["cast"], ["first"], perm=[0, 3, 1, 2])
        if shape[3] == 3
        else helper.make_node("Identity", ["cast"], ["first"]),
        helper.make_node("AveragePool", ["first"], ["pooled"], kernel_shape=[6, 5], strides=[6, 5]),
        helper.make_node("Flatten", ["pooled"], ["raw" if ours else "embedding"]),
    ]
    names = ["embedding"]
    if ours:
        nodes += [
            helper.make_node("LpNormalization", ["raw"], ["embedding"], axis=1),
            helper.make_node("ReduceL2", ["raw"], ["norm"], keepdims=0, axes=[1]),
        ]
        names = ["norm", "embedding"]  # The order does not matter.
    names_of_axes = ("batch", "first", "second", "third")
    shape = [size or name for size, name in zip(shape, names_of_axes, strict=True)]
    inputs = [helper.make_tensor_value_info("images", kind, shape)]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names]
    graph = helper.make_graph(nodes, "net", inputs, outputs)
    # The last version of ReduceL2 whose axes are an attribute.
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))


def _write_openvino(path, shape, ours):
    import openvino
    from openvino import opset13 as ops

    images = ops.parameter([size or -1 for size in shape], np.uint8 if ours else np.float32)
    images.output(0).set_names({"images"})
    x = ops.convert(images, "f32")
    if shape[3] == 3:
        x = ops.transpose(x, np.array([0, 3, 1, 2]))
    x = ops.avg_pool(x, [6, 5], [0, 0], [0, 0], [6, 5], False)
    x = ops.reshape(x, np.array([0, -1]), True)
    results = {"embedding": x}
    if ours:
        norm = ops.reduce_l2(x, np.array([1]), False)
        results = {"norm": norm, "embedding": ops.normalize_l2(x, np.array([1]), 1e-12, "add")}
    for name, node in results.items():
        node.output(0).set_names({name})
    outputs = [ops.result(node) for node in results.values()]
    openvino.save_model(openvino.Model(outputs, [images], "net"), path, compress_to_fp16=False)


def _write_tflite(path, shape, ours):
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec(shape, tf.uint8 if ours else tf.float32, name="images")])
    def embed(images):
        x = tf.cast(images, tf.float32)
        if shape[3] != 3:
            x = tf.transpose(x, (0, 2, 3, 1))
        x = tf.transpose(tf.nn.avg_pool2d(x, (6, 5), (6, 5), "VALID"), (0, 3, 1, 2))
        x = tf.reshape(x, (-1, 12))
        if ours:
            return {"embedding": tf.math.l2_normalize(x, axis=1), "norm": tf.norm(x, axis=1)}
        return {"embedding": x}

    # A file has a signature if a module is given. Files of other projects often have none.
    owner = tf.Module() if ours else None
    convert = tf.lite.TFLiteConverter.from_concrete_functions([embed.get_concrete_function()], owner)
    path.write_bytes(convert.convert())
