"""Computes terms and gradients for the tests of the losses."""

from pathlib import Path

import numpy as np
import tensorflow as tf

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "losses" / "losses.npz")


def terms_and_gradients(layer, embeddings, identities, call=None):
    """Returns the terms, and the gradients of the mean loss to embeddings and centres, as NumPy arrays."""
    embeddings = tf.constant(embeddings)
    sources = [embeddings, *(weight.value for weight in layer.trainable_variables)]
    with tf.GradientTape() as tape:
        tape.watch(embeddings)
        terms = (call or layer)(embeddings, identities)
        loss = tf.reduce_mean(terms["loss"])
    gradients = [gradient.numpy() for gradient in tape.gradient(loss, sources)]
    return {name: term.numpy() for name, term in terms.items()}, *gradients


def terms_and_gradients_on_replicas(strategy, layer, embeddings, identities):
    """Returns the terms and the embeddings' gradients of a global batch that is split between replicas."""
    num_replicas = strategy.num_replicas_in_sync
    embeddings, identities = (
        np.split(values, num_replicas) for values in (np.asarray(embeddings), np.asarray(identities))
    )
    global_batch = num_replicas * len(embeddings[0])

    def distribute(parts):
        return strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(parts[context.replica_id_in_sync_group])
        )

    def replica(embeddings, identities):
        with tf.GradientTape() as tape:
            tape.watch(embeddings)
            terms = layer(embeddings, identities)
            share = tf.reduce_sum(terms["loss"]) / global_batch
        return terms, tape.gradient(share, embeddings)

    @tf.function
    def run(embeddings, identities):
        return strategy.run(replica, args=(embeddings, identities))

    def joined(values):
        return np.concatenate(strategy.experimental_local_results(values))

    terms, gradients = run(distribute(embeddings), distribute(identities))
    return {name: joined(term) for name, term in terms.items()}, joined(gradients)


def numeric_gradient(function, values, step=1e-5):
    """Returns the central differences of a scalar function of a float64 array."""
    gradient = np.zeros_like(values)
    for index in np.ndindex(values.shape):
        moved = np.zeros_like(values)
        moved[index] = step
        gradient[index] = (function(values + moved) - function(values - moved)) / (2 * step)
    return gradient
