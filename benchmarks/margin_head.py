"""Compares the margin losses for many identities with a plain softmax classifier, forward and backward.

    python -m benchmarks.margin_head

Embeddings are in memory. Gradients are computed for the embeddings and the centres. The reference is a
classifier of TensorFlow's own operations: `embeddings @ centres`,
`tf.nn.sparse_softmax_cross_entropy_with_logits`, and their gradients. The last rows are whole steps of a
trainer without a net, which add decay, the norm of the gradient and momentum.
"""

import argparse

import numpy as np

from benchmarks.comparison import Row, interleaved, medians, report
from nets.start_tensorflow import start_tensorflow

DIM = 512
REFERENCE = "matmul + softmax cross-entropy"


def main(argv=None):
    """Runs the program."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.margin_head", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "--identities",
        type=int,
        default=100_000,
        metavar="N",
        help="number of identities (default: %(default)s)",
    )
    parser.add_argument("--batch_size", type=int, default=64, help="images in a batch (default: %(default)s)")
    parser.add_argument(
        "--sample_rate",
        type=float,
        default=0.1,
        help="share of the identities that a sampled head uses (default: %(default)s)",
    )
    parser.add_argument(
        "--losses",
        nargs="+",
        default=["arcface"],
        metavar="LOSS",
        help="further losses to measure, without sampling (default: arcface)",
    )
    parser.add_argument(
        "--rounds", type=int, default=11, metavar="N", help="number of measurements (default: %(default)s)"
    )
    args = parser.parse_args(argv)
    start_tensorflow()
    report(rows(args))


def rows(args):
    """Yields the rows of the table. Times are in ms, so less is better."""
    rng = np.random.default_rng(0)
    embeddings = rng.standard_normal((args.batch_size, DIM), np.float32)
    identities = rng.integers(0, args.identities, args.batch_size, np.int32)
    setting = f"{args.identities:,} identities, batch {args.batch_size}"
    sampled = f"sampled {args.sample_rate:g}"

    heads = {
        REFERENCE: reference(args.identities, embeddings, identities),
        "ordered": reference(args.identities, embeddings, identities, ordered=True),
        "dense": head("angular_centre", args.identities, 1.0, embeddings, identities),
        sampled: head("angular_centre", args.identities, args.sample_rate, embeddings, identities),
        **{name: head(name, args.identities, 1.0, embeddings, identities) for name in args.losses},
    }
    ms = _measure_ms(heads, args.rounds)
    yield _row(f"margin head, {setting}", REFERENCE, ms["dense"], ms[REFERENCE], "at least 0.77")
    yield _row(f"margin head, {sampled}", "margin head, dense", ms[sampled], ms["dense"], "at least 4")
    yield _row("margin head", f"{REFERENCE}, gradient products as in ours", ms["dense"], ms["ordered"])
    for name in args.losses:
        yield _row(f"margin head, {name}", REFERENCE, ms[name], ms[REFERENCE])
    heads.clear()

    steps = {
        "dense": step(args.identities, 1.0, embeddings, identities),
        sampled: step(args.identities, args.sample_rate, embeddings, identities),
    }
    ms = _measure_ms(steps, args.rounds)
    yield _row("margin head, whole step with decay and momentum, dense", "", ms["dense"], None)
    yield _row(
        f"margin head, whole step, {sampled}", "margin head, whole step, dense", ms[sampled], ms["dense"]
    )


def reference(num_identities, embeddings, identities, ordered=False):
    """Builds a plain classifier.

    Args:
        num_identities: int > 0.
        embeddings: float32 array `(batch, DIM)`.
        identities: int32 array `(batch,)`.
        ordered: bool, whether to multiply with `losses.custom_gradients.inner_products`, like our losses.
            Defaults to `False`, which uses `tf.matmul`.

    Returns:
        Function that computes loss and gradients once, and returns the loss as a float.
    """
    import tensorflow as tf

    from losses.custom_gradients import inner_products

    multiply = inner_products if ordered else tf.matmul
    embeddings, identities = tf.constant(embeddings), tf.constant(identities)
    centres = tf.Variable(tf.random.stateless_normal((DIM, num_identities), (0, 0), stddev=0.005))

    @tf.function
    def compute():
        with tf.GradientTape() as tape:
            tape.watch(embeddings)
            logits = multiply(embeddings, tf.convert_to_tensor(centres))
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(identities, logits)
            loss = tf.reduce_mean(losses)
        return loss, tape.gradient(loss, [embeddings, centres])

    return lambda: float(compute()[0])


def head(loss, num_identities, sample_rate, embeddings, identities):
    """Builds one of our loss layers.

    Args:
        loss: str, name of the loss.
        num_identities: int > 0.
        sample_rate: float in `(0, 1]`, share of the identities that a step uses.
        embeddings: float32 array `(batch, DIM)`.
        identities: int32 array `(batch,)`.

    Returns:
        Function that computes loss and gradients once, and returns the loss as a float.
    """
    import tensorflow as tf

    from losses.build import build_loss

    layer = build_loss(loss, num_identities, sample_rate=sample_rate)
    layer.build((None, DIM))
    step = tf.Variable(0, dtype=tf.int64)
    layer.set_sampling_step(lambda: step)  # draws a new sample each time
    embeddings, identities = tf.constant(embeddings), tf.constant(identities)

    @tf.function
    def compute():
        with tf.GradientTape() as tape:
            tape.watch(embeddings)
            terms = layer(embeddings, identities)
            mean = {name: tf.reduce_mean(values) for name, values in terms.items()}
        gradients = tape.gradient(mean["loss"], [embeddings, layer.centres.value])
        step.assign_add(1)
        return mean, gradients

    return lambda: float(compute()[0]["loss"])


def step(num_identities, sample_rate, embeddings, identities):
    """Builds a trainer with a head, and with one square dense layer in place of a net.

    Args:
        num_identities: int > 0.
        sample_rate: float in `(0, 1]`, share of the identities that a step uses.
        embeddings: float32 array `(batch, DIM)`.
        identities: int32 array `(batch,)`.

    Returns:
        Function that trains one step, and returns the total loss as a float.
    """
    import keras
    import tensorflow as tf

    from losses.build import build_loss
    from training.distribution import make_strategy
    from training.optimizers import MomentumSGD
    from training.trainer import Trainer

    inputs = keras.Input((DIM,))
    dense = keras.layers.Dense(DIM, kernel_initializer="orthogonal", name="E_DenseLayer")
    backbone = keras.Model(inputs, dense(inputs))
    layer = build_loss("angular_centre", num_identities, sample_rate=sample_rate)
    layer.build(backbone.output_shape)
    decayed = [backbone.trainable_variables[0], *layer.trainable_variables]
    trainer = Trainer(make_strategy(), backbone, layer, MomentumSGD(0.01), decayed)
    embeddings, identities = tf.constant(embeddings), tf.constant(identities)
    return lambda: float(trainer.train_step(embeddings, identities)["total"])


def _measure_ms(ways, rounds):
    return {name: 1e3 * seconds for name, seconds in medians(interleaved(ways, rounds, warm_up=2)).items()}


def _row(what, reference, ours, reference_ms, goal=""):
    ratio = None if reference_ms is None else reference_ms / ours
    return Row(what, reference, "ms", ours, reference_ms, ratio, goal)


if __name__ == "__main__":
    main()
