"""Tests that several replicas compute what one device computes."""

import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.eager import context  # No public API shows copies between devices.

from benchmarks.replicas import largest_difference, parse_arguments, run_alone, train_on
from dataset.preprocess import RawImages
from losses.triplet import TripletLoss
from nets.layers.batch_norm import BatchNorm, global_moments, synchronise_batch_norm
from nets.layers.batch_renorm import BatchRenorm
from nets.layers.dropout import Dropout
from tests.training.small_trainer import batch, make_trainer
from training.distribution import make_strategy, replica_devices, worker_rows


def results(strategies, *flags):
    """Trains on each strategy with the same flags; see `benchmarks.replicas.train_on`."""
    return [train_on(strategy, parse_arguments(flags)) for strategy in strategies]


def test_1_2_and_4_replicas_give_the_same_losses_over_20_steps(two_replicas):
    flags = {"sync_bn": True, "clip_norm": 8.0}
    one, two = results([make_strategy(), two_replicas], "--sync_bn", "--clip_norm=8")
    four = run_alone(4, flags)
    assert len(one["loss"]) == 20
    assert max(one["gradient_norm"]) > 8 > min(one["gradient_norm"])  # Some of the steps are clipped.
    for several in (two, four):
        assert largest_difference(one["loss"], several["loss"]) < 5e-6
        assert several["gradient_norm"] == pytest.approx(one["gradient_norm"], rel=1e-4)
        assert several["moving"] == pytest.approx(one["moving"], rel=1e-5)


def split_to(devices, *arrays):
    """Splits arrays into consecutive shares, and copies each share to its device."""
    shares = []
    for parts in zip(*(np.split(array, len(devices)) for array in arrays), strict=True):
        with tf.device(devices[len(shares)]):
            shares.append([tf.identity(part) for part in parts])
    pixels, is_mirrored, *labels = map(list, zip(*shares, strict=True))
    return list(map(RawImages, pixels, is_mirrored)), *labels


def test_each_replica_gets_its_share_and_copies_nothing(two_replicas):
    rng = np.random.default_rng(0)
    images, identities = rng.integers(0, 256, (16, 19, 21, 3), np.uint8), rng.integers(0, 6, 16)
    is_mirrored = rng.random(16) < 0.5
    mirrored = np.where(is_mirrored[:, None, None, None], images[:, :, ::-1], images)
    network_input = (mirrored[:, 1:17, 2:18].astype(np.float32) - 127.5) / 128
    whole, split = (make_trainer(two_replicas, accumulate=2) for _ in range(2))
    batch = split_to(replica_devices(two_replicas) * 2, images, is_mirrored, identities)
    expected = whole.train_step(network_input, identities)
    context.enable_run_metadata()
    received = split.train_step(*batch)
    graphs = context.export_run_metadata().function_graphs
    context.disable_run_metadata()
    for name in expected:
        np.testing.assert_array_equal(received[name], expected[name])
    nodes = [node for graph in graphs for part in graph.partition_graphs for node in part.node]
    copied = [node.attr["tensor_name"].s.decode() for node in nodes if node.op == "_Recv"]
    assert copied and not [name for name in copied if "images" in name or "labels" in name]


def test_losses_differ_without_synchronised_statistics(two_replicas):
    one, two = results([make_strategy(), two_replicas], "--steps=5")
    assert largest_difference(one["loss"], two["loss"]) > 1e-3


@pytest.mark.parametrize("flags", [("--net=tiny_dropout", "--accumulate=2"), ("--net=tiny_renorm",)])
def test_dropout_renormalisation_and_parts_do_not_depend_on_replicas(two_replicas, flags):
    one, two = results([make_strategy(), two_replicas], "--sync_bn", "--steps=6", *flags)
    assert largest_difference(one["loss"], two["loss"]) < 5e-6


def run_on(strategy, function, *arrays):
    """Calls the function on every replica with its share of the arrays, and returns the results in a list."""
    halves = [np.split(array, 2) for array in arrays]
    values = [
        strategy.experimental_distribute_values_from_function(
            lambda context, half=half: tf.constant(half[context.replica_id_in_sync_group])
        )
        for half in halves
    ]
    return strategy.experimental_local_results(tf.function(strategy.run)(function, args=values))


@pytest.mark.parametrize("layer_class", [BatchNorm, BatchRenorm])
@pytest.mark.parametrize("unbiased", [False, True])
def test_synchronised_layer_equals_one_device(two_replicas, layer_class, unbiased):
    rng = np.random.default_rng(0)
    inputs = (rng.normal(3, 2, (6, 2, 3, 4)) * np.arange(1, 7)[:, None, None, None]).astype(np.float32)
    weights = rng.normal(size=inputs.shape).astype(np.float32)

    def layer_and_gradients(layer):
        def compute(inputs, weights):
            with tf.GradientTape() as tape:
                tape.watch(inputs)
                outputs = layer(inputs, training=True)
                loss = tf.reduce_sum(outputs**2 * weights)
            gamma_gradient, beta_gradient, inputs_gradient = tape.gradient(
                loss, [layer.gamma.value, layer.beta.value, inputs]
            )
            return outputs, inputs_gradient, gamma_gradient, beta_gradient

        return compute

    single = layer_class(unbiased=unbiased)
    single.build(inputs.shape)
    expected = layer_and_gradients(single)(tf.constant(inputs), tf.constant(weights))
    with two_replicas.scope():
        layer = layer_class(unbiased=unbiased)
        layer.build(inputs.shape)
    layer.synchronised = True
    shares = run_on(two_replicas, layer_and_gradients(layer), inputs, weights)
    shares = (
        [two_replicas.experimental_local_results(share) for share in shares] if len(shares) == 4 else shares
    )
    outputs, inputs_gradient, gamma_gradient, beta_gradient = (
        shares if len(shares) == 4 else [[share[i] for share in shares] for i in range(4)]
    )
    for received, wanted in zip((outputs, inputs_gradient), expected[:2], strict=True):
        np.testing.assert_allclose(np.concatenate(received), wanted, rtol=1e-4, atol=2e-4)
    for received, wanted in zip((gamma_gradient, beta_gradient), expected[2:], strict=True):
        np.testing.assert_allclose(sum(received), wanted, rtol=1e-4, atol=1e-3)
    for name in ("moving_mean", "moving_variance"):
        np.testing.assert_allclose(getattr(layer, name), getattr(single, name), rtol=1e-5)


def test_moments_are_exact_at_large_means():
    values = np.float32(1000) + np.random.default_rng(0).normal(0, 0.1, (8, 3, 3, 2)).astype(np.float32)
    mean, variance = global_moments(tf.constant(values))
    np.testing.assert_allclose(mean, values.mean((0, 1, 2), dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(variance, values.var((0, 1, 2), dtype=np.float64), rtol=1e-2)


def test_all_batch_norms_are_synchronised():
    images = keras.Input((4, 4, 8))
    model = keras.Model(images, BatchRenorm()(Dropout()(BatchNorm()(images))))
    assert synchronise_batch_norm(model) == 2
    assert [layer.synchronised for layer in model.layers if isinstance(layer, BatchNorm)] == [True, True]
    assert "synchronised" not in BatchNorm().get_config()


def test_dropout_mask_does_not_depend_on_replicas(two_replicas):
    ones = np.ones((6, 50), np.float32)
    single = Dropout(0.5, seed=3)
    expected = [single(ones, training=True) for _ in range(2)]
    with two_replicas.scope():
        layer = Dropout(0.5, seed=3)
        layer.build(ones.shape)
    for wanted in expected:
        masks = run_on(two_replicas, lambda values: layer(values, training=True), ones)
        np.testing.assert_array_equal(np.concatenate(masks), wanted)


def test_parts_add_up_to_the_whole_batch(two_replicas):
    """Weight decay and clipping act once per batch. The net has no batch norm."""
    flags = ("--net=tiny_group", "--clip_norm=6")
    (whole,) = results([make_strategy()], *flags)
    parts = results([make_strategy(), two_replicas], *flags, "--accumulate=4")
    assert max(whole["gradient_norm"]) > 6 > min(whole["gradient_norm"])
    for part in parts:
        assert largest_difference(whole["loss"], part["loss"]) < 1e-5
        assert part["gradient_norm"] == pytest.approx(whole["gradient_norm"], rel=1e-4)


def test_parts_count_as_one_step(two_replicas):
    trainer = make_trainer(two_replicas, accumulate=3)
    terms = trainer.train_step(*batch(0, 12))
    assert trainer.step == 1
    assert {"loss", "weight_decay", "total", "gradient_norm", "learning_rate"} <= terms.keys()
    whole = make_trainer(make_strategy()).train_step(*batch(0, 12))
    np.testing.assert_allclose(terms["weight_decay"], whole["weight_decay"], rtol=1e-5)


def test_any_number_of_images_is_embedded_after_training_on_replicas(two_replicas):
    trainer = make_trainer(two_replicas)
    synchronise_batch_norm(trainer.backbone)
    trainer.train_step(*batch(0, 8))
    images, _ = batch(1, 7)
    embeddings = trainer.backbone(images, training=False)
    assert embeddings.shape == (7, 32)
    one_by_one = [trainer.backbone(images[i : i + 1], training=False) for i in range(7)]
    np.testing.assert_allclose(embeddings, np.concatenate(one_by_one), rtol=1e-4, atol=1e-5)


def test_rows_of_workers_make_up_every_part():
    def strategy_of(worker):
        spec = tf.train.ClusterSpec({"worker": ["a:1", "b:1"]})
        resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
            spec, task_type="worker", task_id=worker
        )
        return types.SimpleNamespace(cluster_resolver=resolver)

    rows = [worker_rows(strategy_of(worker), 12, parts=3) for worker in range(2)]
    assert [own.tolist() for own in rows] == [[0, 1, 4, 5, 8, 9], [2, 3, 6, 7, 10, 11]]


def test_losses_that_need_the_whole_batch_refuse_parts():
    with pytest.raises(ValueError, match=r"--accumulate: .*TripletLoss, .* 2"):
        make_trainer(make_strategy(), make_head=TripletLoss, accumulate=2)


def test_one_process_computes_every_row():
    np.testing.assert_array_equal(worker_rows(make_strategy(), 8, parts=2), np.arange(8))


def test_the_kind_decides_the_strategy(monkeypatch, caplog):
    assert make_strategy(kind="one").num_replicas_in_sync == 1
    with pytest.raises(ValueError, match=r"--strategy mirrored: .* 2 GPUs, .* 0"):
        make_strategy(kind="mirrored")
    monkeypatch.setenv("TF_CONFIG", "{}")
    make_strategy()
    assert "TF_CONFIG is set, and --strategy is auto: this process trains alone" in caplog.text
