"""Tests distillation: stored embeddings of a teacher, and steps that use them as targets."""

import dataclasses
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from common.files import FileLock
from dataset.images import decode_image
from dataset.records.tfrecord import decode_example
from dataset.sampling.combine import CombinedSources
from eval.embedding.embedder import Embedder
from eval.embedding.engines import Engine
from eval.embedding.extractor import NotFiniteError
from losses.distillation import DistillationLoss
from tests.dataset.samples import flip_bit, make_images, write_converted
from tests.training.small_trainer import batch, make_trainer, weights
from training.distribution import make_strategy
from training.teacher import FOLDER, NoLoss, teacher_targets


class Model:
    """Embeds a face as its mean colours in a 4 x 4 grid, and counts the faces."""

    face_size = (112, 96)

    def __init__(self, fail_after=None):
        self.num_faces = 0
        self.fail_after = fail_after

    def embed(self, faces):
        if self.fail_after is not None and self.num_faces >= self.fail_after:
            raise KeyboardInterrupt
        self.num_faces += len(faces)
        cells = faces.reshape(len(faces), 4, 28, 4, 24, 3).astype(np.float32)
        return cells.mean(axis=(2, 4)).reshape(len(faces), 48) - 128


def make_teacher(model=None, sha256="a" * 64, **changes):
    model = model or Model()
    teacher = Embedder(
        path=Path("teacher.onnx"),
        sha256=sha256,
        face_size=model.face_size,
        dim=48,
        engine=Engine("numpy"),
        model=model,
        flip=True,
        batch_size=4,
    )
    return dataclasses.replace(teacher, **changes)


@pytest.fixture
def sources(tmp_path):
    manifests = [write_converted(tmp_path / "one", make_images(2, 5))]
    return CombinedSources([*manifests, write_converted(tmp_path / "two", make_images(3, 2))])


def test_embeddings_are_those_of_both_mirror_images_and_computed_once(sources):
    targets = teacher_targets(make_teacher(), sources)
    assert [array.shape for array in targets] == [(10, 48), (6, 48)]
    examples, _ = sources.read(np.arange(10, 16))
    face = np.empty((112, 112, 3), np.uint8)
    decode_image(decode_example(list(examples)[3])[0], face, "RGB")
    face = face[None, :, 8:-8]
    expected = Model().embed(face) + Model().embed(face[:, :, ::-1])
    np.testing.assert_allclose(targets[1][3], expected[0], rtol=1e-5)
    unused = Model(fail_after=0)
    for again, first in zip(teacher_targets(make_teacher(unused), sources), targets, strict=True):
        np.testing.assert_array_equal(again, first)
        assert isinstance(again, np.memmap)
    # Another model has another store.
    assert teacher_targets(make_teacher(sha256="b" * 64), sources)[0].filename != targets[0].filename


def test_embedding_continues_after_a_kill(sources):
    whole = [np.array(array) for array in teacher_targets(make_teacher(sha256="b" * 64), sources)]
    with pytest.raises(KeyboardInterrupt):
        teacher_targets(make_teacher(Model(fail_after=10 * 2 + 20)), sources)
    rest = Model()
    received = teacher_targets(make_teacher(rest), sources)
    tried = 2 * (2 * 2 + 3 * 2)  # two images of each identity, and their mirror images
    assert rest.num_faces < 2 * 16 + tried
    for one, two in zip(received, whole, strict=True):
        np.testing.assert_array_equal(one, two)


def test_changed_records_are_embedded_again(tmp_path):
    arrays = []
    for seed in (2, 3):
        manifest = write_converted(tmp_path / "set", make_images(seed, 2))
        arrays += teacher_targets(make_teacher(), CombinedSources([manifest]))
    assert [len(array) for array in arrays] == [4, 6]


def test_damaged_records_are_left_out(sources, caplog):
    manifest = sources.manifests[0]
    start = int(manifest.open_index()["offset"][7])
    flip_bit(manifest.folder / manifest.shards[0].name, start + 300)
    good, _ = teacher_targets(make_teacher(), sources)
    assert f"{manifest.folder}: 1 " in caplog.text
    assert len(good) == 10


@pytest.mark.parametrize("problem", ["size", "nan"])
def test_teachers_that_cannot_be_used_are_an_error(sources, problem):
    model = Model()
    if problem == "size":
        model.face_size = (128, 96)
        with pytest.raises(ValueError, match=r"teacher.onnx takes faces of 128x96.*112x112"):
            teacher_targets(make_teacher(model), sources)
    else:
        model.embed = lambda faces: np.full((len(faces), 48), np.nan, np.float32)
        with pytest.raises(NotFiniteError, match=r"teacher.onnx.*one: image 0"):
            teacher_targets(make_teacher(model), sources)


def row_means(faces):
    """Returns embeddings that are equal for a face and its mirror image."""
    return faces.mean(axis=2, dtype=np.float32).reshape(len(faces), -1)[:, ::7] - 128


def right_half(faces):
    """Returns embeddings that differ completely for a face and its mirror image."""
    return row_means(faces[:, :, 48:])


@pytest.mark.parametrize(
    ("embed", "num_people", "doubts"),
    [
        (row_means, 6, []),
        (row_means, 24, ["identity"]),
        (right_half, 6, ["mirror"]),
        (row_means, None, []),
        (right_half, None, ["mirror"]),
    ],
)
def test_a_teacher_that_does_not_tell_people_apart_causes_a_warning(
    tmp_path, caplog, embed, num_people, doubts
):
    """Each label has four images, of one person or of four people; or there are no labels."""
    images = make_images(1, 24)
    if num_people is not None:
        images = [(images[(label + 6 * n) % num_people][0], label) for label in range(6) for n in range(4)]
    sources = CombinedSources([write_converted(tmp_path / "set", images)])
    teacher = make_teacher()
    teacher.model.embed = embed
    teacher_targets(teacher, sources)
    assert [name for name in ("identity", "mirror") if name in caplog.text] == doubts


def taught_batch(seed, size=12, dim=48):
    targets = np.random.default_rng(seed).normal(size=(size, dim)).astype(np.float32)
    return *batch(seed, size), tf.constant(targets)


def make_taught(strategy, make_head=None, dim=48, relation_weight=0.0, **arguments):
    with strategy.scope():
        distillation = DistillationLoss(2.0, relation_weight)
        distillation.build((None, 32), (None, dim))
    return make_trainer(strategy, make_head=make_head, distillation=distillation, **arguments)


def all_weights(trainer):
    return weights(trainer) + [v.numpy() for v in trainer.options.distillation.variables]


def test_the_loss_of_the_teacher_is_added():
    images, identities, targets = taught_batch(0)
    terms = make_taught(make_strategy()).train_step(images, identities, targets)
    plain = make_trainer(make_strategy()).train_step(images, identities)
    alone = make_taught(make_strategy(), NoLoss).train_step(images, identities, targets)
    expected = 2 * (1 - float(terms["teacher_cosine"]))
    assert float(terms["loss"]) == pytest.approx(float(plain["loss"]) + expected, rel=1e-5)
    assert float(alone["loss"]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("make_head", [None, NoLoss])
def test_a_run_with_a_teacher_resumes_bit_for_bit(make_head, tmp_path):
    trainer, resumed = (make_taught(make_strategy(), make_head) for _ in range(2))
    first, *_, last = [trainer.train_step(*taught_batch(0)) for _ in range(12)]
    assert float(last["teacher_cosine"]) > float(first["teacher_cosine"]) + 0.1
    trainer.state.write(str(tmp_path / "state"))
    resumed.state.read(str(tmp_path / "state")).assert_consumed()
    for each in (trainer, resumed):
        each.train_step(*taught_batch(1))
    for one, two in zip(*map(all_weights, (trainer, resumed)), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("make_head", [None, NoLoss])
def test_two_replicas_equal_one_device(two_replicas, make_head):
    # Both replicas get the same half, so that their batch statistics are those of the whole batch.
    strategies = (make_strategy(), two_replicas)
    trainers = [make_taught(strategy, make_head, relation_weight=3.0) for strategy in strategies]
    for step in range(3):
        given = [tf.concat([half, half], 0) for half in taught_batch(step, 4)]
        one, two = (trainer.train_step(*given) for trainer in trainers)
        for name in one:
            np.testing.assert_allclose(two[name], one[name], rtol=2e-4, atol=1e-6, err_msg=name)
    for one, two in zip(*map(all_weights, trainers), strict=True):
        np.testing.assert_allclose(two, one, atol=2e-4 * max(1, np.abs(one).max()))


def test_parts_of_a_batch_get_their_targets():
    given = [tf.concat([half, half], 0) for half in taught_batch(0, 4)]
    one, two = (make_taught(make_strategy(), accumulate=n).train_step(*given) for n in (1, 2))
    np.testing.assert_allclose(two["loss"], one["loss"], rtol=1e-5)
    np.testing.assert_allclose(two["gradient_norm"], one["gradient_norm"], rtol=1e-4)


def test_a_run_waits_for_another_process_that_embeds(sources, caplog):
    caplog.set_level("INFO")
    root = sources.manifests[0].folder / FOLDER
    root.mkdir()
    with FileLock(root / "lock") as lock, ThreadPoolExecutor(1) as thread:
        lock.acquire()
        waiting = thread.submit(teacher_targets, make_teacher(), sources)
        while "waiting" not in caplog.text:
            assert not waiting.done()
            time.sleep(0.01)
        time.sleep(0.3)
        assert not waiting.done() and not list(root.glob("*/store.json"))
        lock.close()
        assert len(waiting.result(60)[0]) == 10


def test_relations_need_the_whole_batch():
    with pytest.raises(ValueError, match=r"--accumulate: .* 2"):
        make_taught(make_strategy(), relation_weight=1.0, accumulate=2)
