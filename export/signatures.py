"""Builds the signatures of an exported SavedModel; see `export.saved_model.export_saved_model`."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from dataset.preprocess import preprocess
from eval.scoring.templates import NORM_POWERS

_FRAMES_AT_ONCE = 64  # frames that `template` embeds at once; this limits the memory for a long video


def make_signatures(net: keras.Model, face_size: tuple[int, int], pooling: str) -> dict[str, Any]:
    """Builds the signatures. All call the net through one function, so that its graph is stored only once.

    Args:
        net: net from normalised images to embeddings, in float32.
        face_size: `(height, width)` of the faces.
        pooling: how `template` pools frames, a key of `NORM_POWERS`.

    Returns:
        dict of `tf.function` by name; see `export.saved_model.export_saved_model`.
    """
    image_size, dim = net.input_shape[1:3], net.output_shape[1]

    def images_of(size: tuple[int, int], dtype: tf.DType) -> tf.TensorSpec:
        return tf.TensorSpec((None, *size, 3), dtype, name="images")

    files = tf.TensorSpec((None,), tf.string, name="images")
    numbers = tf.TensorSpec((None,), tf.int64, name="video")

    @tf.function(input_signature=[images_of(image_size, tf.float32)])
    def embed(images):
        # Convolutions refuse an empty batch, so it gets one image of zeros, which is removed afterwards.
        num_images = tf.shape(images)[0]
        num_added = tf.cast(tf.equal(num_images, 0), tf.int32)
        filled = tf.pad(images, [[0, num_added], [0, 0], [0, 0], [0, 0]])
        filled = tf.reshape(filled, (-1, *image_size, 3))  # gives converters the static shape
        return net(filled, training=False)[:num_images]

    def embed_units(images):
        embedding = embed(preprocess(images, image_size))
        return {"embedding": tf.math.l2_normalize(embedding, axis=1), "norm": tf.norm(embedding, axis=1)}

    @tf.function(input_signature=[images_of(face_size, tf.uint8)])
    def serve(images):
        return embed_units(_checked(images))

    @tf.function(input_signature=[images_of(face_size, tf.uint8)])
    def embed_bgr(images):
        return embed_units(_checked(images)[..., ::-1])

    @tf.function(input_signature=[files])
    def embed_jpeg(images):
        decoded = tf.TensorSpec((*face_size, 3), tf.uint8)
        faces = tf.map_fn(
            lambda file: _decode(file, face_size), _checked(images), fn_output_signature=decoded
        )
        return embed_units(faces)

    @tf.function(input_signature=[images_of(face_size, tf.uint8), numbers])
    def template(images, video):
        images, video = _checked(images), _checked(video)
        check = tf.debugging.assert_equal(
            tf.shape(images)[0], tf.shape(video)[0], "expected as many numbers in video as there are images"
        )
        with tf.control_dependencies([check]):
            images = tf.identity(images)
        frames = _in_parts(lambda part: embed(preprocess(part, image_size)), images, dim)
        norms = tf.norm(frames, axis=1, keepdims=True)
        weighted = tf.math.multiply_no_nan(norms ** (NORM_POWERS[pooling] - 1), frames)
        videos = tf.sort(tf.unique(video).y)
        places = tf.searchsorted(videos, video)
        pooled = tf.math.unsorted_segment_sum(weighted, places, tf.size(videos))
        return {"template": tf.math.l2_normalize(pooled, axis=1), "video": videos}

    @tf.function(input_signature=[images_of(image_size, tf.float32)])
    def raw(images):
        return {"embedding": embed(_checked(images))}

    return {
        "serving_default": serve,
        "embed_bgr": embed_bgr,
        "embed_jpeg": embed_jpeg,
        "template": template,
        "raw": raw,
    }


def describe_signatures(signatures: dict[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    """Returns the dtype and shape of each input and output, by name of the signature, for the model card."""

    def described(tensors: dict[str, Any]) -> dict[str, dict[str, Any]]:
        return {
            name: {"dtype": tensor.dtype.name, "shape": tensor.shape.as_list()}
            for name, tensor in tensors.items()
        }

    found = {}
    for name, signature in signatures.items():
        inputs = {spec.name: spec for spec in signature.input_signature}
        outputs = signature.get_concrete_function().structured_outputs
        found[name] = {"inputs": described(inputs), "outputs": described(outputs)}
    return found


def _checked(tensor: tf.Tensor, shape: tf.TensorShape | None = None) -> tf.Tensor:
    """Returns the tensor, and makes the model check its shape each time it runs.

    TensorFlow does not check inputs against a signature. It would also drop the check as redundant, because
    the signature already states the shape, so the shape is hidden first.

    Args:
        shape: expected shape. Defaults to that of the signature.
    """
    hidden = tf.raw_ops.PlaceholderWithDefault(input=tensor, shape=tf.TensorShape(None))
    return tf.ensure_shape(hidden, shape or tensor.shape, name="images")


def _decode(file, face_size):
    """Decodes a JPEG or PNG file to the same pixels as `dataset.images`."""
    image = tf.io.decode_jpeg(file, channels=3, dct_method="INTEGER_ACCURATE")
    return _checked(image, tf.TensorShape((*face_size, 3)))


def _in_parts(embed, images, dim):
    """Embeds `_FRAMES_AT_ONCE` images at a time, and returns all embeddings, float32 `(n, dim)`."""
    parts = tf.TensorArray(tf.float32, 0, dynamic_size=True, infer_shape=False, element_shape=(None, dim))

    def add(start, parts):
        part = embed(images[start : start + _FRAMES_AT_ONCE])
        return start + _FRAMES_AT_ONCE, parts.write(start // _FRAMES_AT_ONCE, part)

    def is_left(start, parts):
        return start < tf.shape(images)[0]

    _, parts = tf.while_loop(is_left, add, (0, parts), parallel_iterations=1)
    return parts.concat()
