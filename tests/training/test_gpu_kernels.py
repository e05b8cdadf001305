"""Tests that a step runs on a GPU and copies only a few small values to the host."""

import functools

import pytest
import tensorflow as tf

from losses.build import build_loss
from losses.distillation import DistillationLoss
from losses.hardnet import HardNetLoss
from losses.triplet import TripletLoss
from losses.variants import LOSSES
from nets.ghostfacenet import _BLOCKS, ghostfacenet
from nets.imagenet_net import imagenet_net
from nets.iresnet import UNITS, iresnet
from nets.mobilefacenet import mobilefacenet
from nets.resnet_ir import resnet_ir
from nets.variants import STAGES
from nets.vit import vit
from tests.gpu_kernels import Copy, copies_to_host, large_copies_to_device, missing_kernels
from tests.training import sharded_trainer, small_trainer, test_ema, test_optimizers, test_precision

IDENTITIES, DIM, BATCH = 40, 8, 8

# Values that a step needs on the host, a few bytes each. Operations that depend on them have to wait for the
# device. The net does not depend on them, so they cost no time while it is computed.
COPIES = {
    Copy("All", "Assert", "bool"): "the check that all identities are in range, before the loss",
    Copy("LogicalAnd", "If", "bool"): "the check of HardNetLoss that the batch consists of pairs",
    Copy("Pack", "StatelessRandomGetKeyCounter", "int64"): "seed and step of the sampled centres, 16 bytes",
}
# The check that the gradients are finite, and the number of steps in a row with finite gradients.
FLOAT16 = {Copy("IsFinite", "If", "bool"), Copy("ReadVariableOp", "Identity", "int32")}
WITHOUT_KERNEL = {"Const(dtype=string)": "the message of the check of the identities"}
HEADS = {
    **{name: functools.partial(build_loss, name, IDENTITIES) for name in LOSSES},
    **{
        f"{name}, sampled": functools.partial(build_loss, name, IDENTITIES, sample_rate=0.5)
        for name in ("arcface", "softmax", "sub_centre")
    },
    "label smoothing": functools.partial(build_loss, "arcface", IDENTITIES, label_smoothing=0.1),
    "batch_hard": TripletLoss,
    "batch_all": functools.partial(TripletLoss, "batch_all"),
    "hardnet": HardNetLoss,
    "distillation": functools.partial(DistillationLoss, relation_weight=1.0),
}


@pytest.fixture(scope="module", autouse=True)
def machine_with_gpu():
    """Makes the code choose the operations for GPUs on a machine without GPUs."""
    list_devices = tf.config.list_logical_devices
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            tf.config,
            "list_logical_devices",
            lambda kind=None: ["a GPU"] if kind == "GPU" else list_devices(kind),
        )
        yield


def traced_head(head):
    """Returns the graph of the loss and the gradients of a head."""
    is_taught = isinstance(head, DistillationLoss)
    target = tf.TensorSpec((BATCH, 6), tf.float32) if is_taught else tf.TensorSpec((BATCH,), tf.int32)
    head.build(*([(None, DIM), (None, 6)] if is_taught else [(None, DIM)]))

    @tf.function
    def step(embeddings, target):
        variables = [variable.value for variable in head.trainable_variables]
        with tf.GradientTape() as tape:
            tape.watch(embeddings)
            terms = head(embeddings, target)
            loss = tf.reduce_mean(terms["loss"])
        return terms, tape.gradient(loss, [embeddings, *variables])

    return step.get_concrete_function(tf.TensorSpec((BATCH, DIM), tf.float32), target)


def traced_step(trainer, batch):
    """Returns the graph of a whole step of a trainer."""
    (part,) = zip(*map(trainer._parts, batch), strict=True)
    return trainer._step_of_batch.get_concrete_function(*part)


def check(function, also_copied=()):
    assert missing_kernels(function) <= set(WITHOUT_KERNEL)
    assert copies_to_host(function) <= {*COPIES, *also_copied}
    assert not large_copies_to_device(function, 2 * BATCH)


@pytest.mark.parametrize("name", HEADS)
def test_losses_run_on_a_gpu(name):
    check(traced_head(HEADS[name]()))


def test_exceptions_are_needed():
    sampled, number = HEADS["arcface, sampled"](), tf.Variable(0, dtype=tf.int64)
    sampled.set_sampling_step(lambda: tf.convert_to_tensor(number))
    step = traced_head(sampled)
    pairs = traced_head(HardNetLoss())
    assert copies_to_host(step) | copies_to_host(pairs) == set(COPIES)
    assert missing_kernels(step) == set(WITHOUT_KERNEL)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "lamb"])
def test_steps_run_on_a_gpu(optimizer):
    trainer = test_optimizers.make_trainer(tf.distribute.get_strategy(), f"--optimizer={optimizer}")
    check(traced_step(trainer, small_trainer.batch(0, BATCH)))


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_steps_of_16_bits_run_on_a_gpu(precision, two_replicas):
    scale = (256.0,) if precision == "mixed_float16" else None
    for strategy in (tf.distribute.get_strategy(), two_replicas):
        trainer = test_precision.make_trainer(strategy, precision, loss_scale=scale, clip_norm=1.0)
        also_copied = FLOAT16 if precision == "mixed_float16" else set()
        check(traced_step(trainer, small_trainer.batch(0, BATCH)), also_copied)


@pytest.mark.parametrize("arguments", [{}, {"sharded": True}, {"sample_rate": 0.5}], ids=str)
def test_steps_of_two_devices_run_on_gpus(arguments, two_replicas, monkeypatch):
    # There are more identities than a batch has, so that samples have a fixed size.
    monkeypatch.setattr(sharded_trainer, "IDENTITIES", IDENTITIES)
    trainer = sharded_trainer.make_trainer(two_replicas, **arguments)
    check(traced_step(trainer, sharded_trainer.batch(0)))


def test_the_moving_average_runs_on_gpus(two_replicas):
    check(traced_step(test_ema.make_averaging(two_replicas), small_trainer.batch(0, BATCH)))


def test_detects_operations_without_kernel():
    @tf.function
    def step(values):
        drawn = tf.random.experimental.index_shuffle(tf.range(4), (1, 2), 3)
        return tf.gather(values, drawn), tf.cast(tf.argmax(values, output_type=tf.int32) + 1, tf.float32)

    function = step.get_concrete_function(tf.TensorSpec((4,), tf.float32))
    assert "RandomIndexShuffle(Tseed=int32, dtype=int32)" in missing_kernels(function)
    assert Copy("ArgMax", "AddV2", "int32") in copies_to_host(function)


def small_nets():
    """Returns builders of one net of each family, as small as possible."""
    return {
        "resnet_ir": lambda **given: resnet_ir(32, unit_type="se_ir", **given),
        "group norm": lambda **given: resnet_ir(32, norm="group", **given),
        "renorm": lambda **given: resnet_ir(32, norm="renorm", **given),
        "iresnet": lambda **given: iresnet(18, **given),
        "mobilefacenet": lambda **given: mobilefacenet(1, (1, 1, 1, 1), **given),
        "ghostfacenet": lambda **given: ghostfacenet(0.5, 2, **given),
        "vit": lambda **given: vit(32, 2, **given),
        "vgg": lambda **given: imagenet_net("vgg16", **given),
        "resnet": lambda **given: imagenet_net("resnet50", **given),
    }


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "precision"),
    [
        (name, precision)
        for name in small_nets()
        for precision in ("float32", "mixed_bfloat16", "mixed_float16")
        if name != "resnet" or precision == "mixed_bfloat16"  # 50 layers take long.
    ],
)
def test_nets_run_on_a_gpu(name, precision, monkeypatch):
    # The first blocks with and without a stride, with squeeze-and-excitation and without.
    monkeypatch.setattr("nets.ghostfacenet._BLOCKS", _BLOCKS[:5])
    monkeypatch.setitem(STAGES, 32, ((16, 1), (32, 1), (32, 2)))
    monkeypatch.setitem(UNITS, 18, (1, 1, 1, 1))
    net = small_nets()[name](image_size=(36, 36), embedding_size=DIM, keep_prob=0.5, dtype=precision)

    @tf.function
    def step(images):
        with tf.GradientTape() as tape:
            embeddings = net(images, training=True)
        return tape.gradient(embeddings, [variable.value for variable in net.trainable_variables])

    check(step.get_concrete_function(tf.TensorSpec((BATCH, 36, 36, 3), tf.float32)))
