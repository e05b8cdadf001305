"""The graph of a training step, as a GPU would run it."""

import tensorflow as tf

from tests.graphs import count_operations, graph_on_gpu
from tests.training.small_trainer import SIZE
from tests.training.test_precision import make_trainer
from training.distribution import make_strategy


def traced_step(trainer, batch_size=8):
    images = tf.TensorSpec((batch_size, *SIZE, 3), tf.float32)
    return trainer._step_of_batch.get_concrete_function(images, tf.TensorSpec((batch_size,), tf.int32))


def test_number_of_operations():
    """A net with one convolution, one dense layer, two norms and a PReLU; most belong to the loss."""
    counts = count_operations(graph_on_gpu(traced_step(make_trainer(make_strategy(), "mixed_bfloat16"))))
    assert counts["Conv2D"] == 1
    assert counts.total() <= 215, counts
