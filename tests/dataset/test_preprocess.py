import numpy as np
import pytest
import tensorflow as tf

from dataset.preprocess import draw_mirrors, mirror, preprocess
from tests.dataset.samples import noise


def reference(images, top, left, height, width):
    """Converts RGB images to network input, in NumPy."""
    cropped = images[:, top : top + height, left : left + width, :]
    bgr = np.stack([cropped[..., 2], cropped[..., 1], cropped[..., 0]], axis=-1)
    return (bgr.astype(np.float32) - np.float32(127.5)) * np.float32(0.0078125)


@pytest.mark.parametrize(
    "image_size, top, left", [((112, 96), 0, 8), ((112, 112), 0, 0), ((96, 112), 8, 0), ((97, 111), 7, 0)]
)
def test_preprocessing_agrees_with_numpy(image_size, top, left):
    images = noise(3, 112, 112, 3)
    expected = reference(images, top, left, *image_size)
    received = preprocess(tf.constant(images), image_size)
    assert received.dtype == tf.float32 and received.shape == (3, *image_size, 3)
    np.testing.assert_array_equal(received, expected)
    signature = [tf.TensorSpec((None, 112, 112, 3), tf.uint8)]
    traced = tf.function(lambda batch: preprocess(batch, image_size), input_signature=signature)
    np.testing.assert_array_equal(traced(images), expected)


def test_network_input_is_between_minus_1_and_1():
    ends = np.array([0, 255], np.uint8).reshape(2, 1, 1, 1) * np.ones((1, 2, 2, 3), np.uint8)
    received = preprocess(tf.constant(ends), (2, 2)).numpy()
    assert (received[0] == -0.99609375).all() and (received[1] == 0.99609375).all()


@pytest.mark.parametrize("have", [(111, 112), (112, 95)])
def test_images_that_are_too_small_are_an_error(have):
    message = rf"expected images of at least \(112, 96\), received \({have[0]}, {have[1]}\)"
    with pytest.raises(ValueError, match=message):
        preprocess(tf.zeros((1, *have, 3), tf.uint8), [112, 96])


@pytest.mark.parametrize("shape", [(None, None), (112, None), (None, 112)])
def test_images_of_unknown_size_are_an_error(shape):
    function = tf.function(lambda batch: preprocess(batch, (112, 96)), autograph=False)
    with pytest.raises(ValueError, match="112, 96"):
        function.get_concrete_function(tf.TensorSpec((1, *shape, 3), tf.uint8))


def test_chosen_images_are_mirrored():
    images = noise(4, 5, 7, 3)
    mirrored = mirror(tf.constant(images), tf.constant([False, True, True, False])).numpy()
    np.testing.assert_array_equal(mirrored[[0, 3]], images[[0, 3]])
    np.testing.assert_array_equal(mirrored[1:3], images[1:3, :, ::-1])


def test_mirrors_are_a_pure_function_of_their_seed():
    first = draw_mirrors(400, (3, 4)).numpy()
    assert first.shape == (400,) and first.dtype == bool
    assert 160 < first.sum() < 240  # 200 +- 4 standard deviations
    tf.random.normal(())
    np.testing.assert_array_equal(draw_mirrors(400, (3, 4)), first)
    traced = tf.function(draw_mirrors)(400, tf.constant((3, 4), tf.int64))
    np.testing.assert_array_equal(traced, first)
    for seed in ((4, 4), (3, 5), (4, 3)):
        assert (draw_mirrors(400, seed).numpy() != first).any()
