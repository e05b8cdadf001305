import itertools
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import tensorflow as tf

# TensorFlow has no public way to switch determinism off again.
from tensorflow.python.framework.config import disable_op_determinism

from dataset import pipeline
from dataset.augment import Augmentation
from dataset.config import SourceConfig
from dataset.convert.options import ConvertOptions
from dataset.convert.sources import convert
from dataset.pipeline import PipelineOptions, TrainingBatches
from dataset.preprocess import RawImages, preprocess
from dataset.records.recordio import RecordReader, unpack_image
from dataset.records.tfrecord import TFRecordFile, decode_example
from dataset.sampling import combine
from dataset.sampling.by_identity import IdentitySampler
from dataset.sampling.combine import CombinedSources
from dataset.sampling.shuffled import ShuffledSampler
from tests.dataset.samples import encoded_image, flip_bit, make_images, write_converted, write_rec

IMAGE_SIZE = (112, 96)
READ_MODES = ("random", "sequential")
WEIGHTS = {"by size": None, "by weight": [0.25, 0.75]}
EVERY_MODE = [(read, weights) for read in READ_MODES for weights in WEIGHTS.values()]
every_mode = pytest.mark.parametrize(
    "read, weights", EVERY_MODE, ids=[f"{read}, {name}" for read in READ_MODES for name in WEIGHTS]
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two RecordIO sets: "a" with 4 identities and 48 images, "b" with 3 and 21. Every 7th image is a PNG."""
    folder = tmp_path_factory.mktemp("pipeline")
    write_rec(folder / "a", make_images(4, 12))
    others = [(encoded_image(100 + i, suffix=".png" if i % 7 == 3 else ".jpg"), i // 7) for i in range(21)]
    write_rec(folder / "b", others)
    return folder


@pytest.fixture(scope="module")
def manifests(folder):
    """Both sets after conversion: shuffled, in three shards each."""
    return [
        convert(
            SourceConfig(name, "mxrec", folder / name),
            folder / "records",
            ConvertOptions(images_per_shard=size, workers=1),
        )
        for name, size in (("a", 18), ("b", 8))
    ]


@pytest.fixture(scope="module")
def faces(folder, manifests):
    """The reference: `(network input, identity)` of every record, not mirrored, without the pipeline.

    Only the order of the records is the conversion's; image and label come from the RecordIO.
    """
    faces = []
    for manifest, offset in zip(manifests, (0, 4), strict=True):
        labels = {}
        reader = RecordReader(folder / manifest.source / "train.rec")
        for position in range(1, manifest.num_images + 1):
            (label,), image = unpack_image(reader.read(position))
            labels[image] = int(label)
        assert len(labels) == manifest.num_images
        for shard in manifest.shards:
            file = TFRecordFile(manifest.folder / shard.name)
            for place in zip(*map(np.ndarray.tolist, file.scan()), strict=True):
                image, _ = decode_example(file.read(*place))
                faces.append((normalised(image), labels[image] + offset))
    return faces


def normalised(encoded):
    bgr = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
    return (bgr[:, 8:104].astype(np.float32) - np.float32(127.5)) / np.float32(128)


@pytest.fixture
def make(manifests):
    """Makes batches of 8 from both sets, from the files on disk."""

    def make(weights=None, seed=5, reshuffle=True, **options):
        sources = CombinedSources(manifests)
        sampler = ShuffledSampler(sources.sizes, 8, seed, weights, reshuffle)
        return TrainingBatches(sources, sampler, IMAGE_SIZE, PipelineOptions(seed=seed, **options))

    return make


class EveryRecord:
    """The simplest sampler: batch `k` is record `k` of nine, and then always the last record."""

    batch_size = 1

    def batch(self, k):
        return np.array([min(k, 8)])


class OneAtATime(ShuffledSampler):
    """Fails if two threads draw at the same time, because a sampler has state."""

    is_drawing = False

    def batch(self, k):
        assert not self.is_drawing
        self.is_drawing = True
        time.sleep(0.002)
        self.is_drawing = False
        return super().batch(k)


def one_by_one(manifest, read="random"):
    """Makes batches of one image. In sequential reading, their order is not that of the records."""
    sources = CombinedSources([manifest])
    sampler = EveryRecord() if read == "random" else ShuffledSampler(sources.sizes, 1)
    return TrainingBatches(sources, sampler, IMAGE_SIZE, PipelineOptions(read=read))


def take(batches, num, start=0):
    """Returns images and identities of `num` batches, `(num, 8, 112, 96, 3)` and `(num, 8)`."""
    pairs = [network_input(batches, batch) for batch in itertools.islice(batches.start_at(start), num)]
    images, identities = zip(*pairs, strict=True)
    return np.stack(images), np.stack(identities)


def network_input(batches, batch):
    """Returns the network's input and the labels of all shares of a batch."""
    shares, *labels = batch
    images = [share.to_input(batches.image_size) for share in shares]
    return [np.concatenate(shares) for shares in (images, *labels)]


def recognise(faces, images, identities):
    """Returns the record of each image, and whether it is mirrored. Fails on any other image or identity."""
    assert images.dtype == np.float32 and images.shape[2:] == (*IMAGE_SIZE, 3)
    assert identities.dtype == np.int64 and identities.shape == images.shape[:2]
    known = {}
    for record, (face, identity) in enumerate(faces):
        known[face.tobytes()] = record, False, identity
        known[face[:, ::-1].tobytes()] = record, True, identity
    assert len(known) == 2 * len(faces)
    found = np.array([[known[image.tobytes()] for image in batch] for batch in images])
    np.testing.assert_array_equal(found[..., 2], identities)
    return found[..., 0], found[..., 1]


def assert_epochs(records, first, size):
    """Checks that every whole epoch has each of `range(first, first + size)` once, in its own order."""
    epochs = records[: len(records) // size * size].reshape(-1, size)
    assert len(epochs) > 1
    assert (np.sort(epochs) == np.arange(first, first + size)).all()
    assert len(np.unique(epochs, axis=0)) == len(epochs)


@pytest.mark.parametrize("weights", WEIGHTS.values(), ids=WEIGHTS)
def test_random_batches_are_those_of_the_sampler(make, faces, weights):
    batches = make(weights, mirror=False)
    records, mirrored = recognise(faces, *take(batches, 22))
    np.testing.assert_array_equal(records, [batches.sampler.batch(k) for k in range(22)])
    assert not mirrored.any()


def test_sequential_batches_contain_every_record_once_per_epoch(make, faces, monkeypatch):
    monkeypatch.setattr(pipeline, "_SHUFFLE_BUFFER", 10)
    images, identities = take(make(read="sequential", mirror=False), 35)
    records, mirrored = recognise(faces, images, identities)
    assert_epochs(records.ravel(), 0, 69)
    assert not mirrored.any()
    expected = [12] * 4 + [7] * 3
    for epoch in identities.ravel()[: 69 * 4].reshape(4, 69):
        assert np.bincount(epoch).tolist() == expected


def test_sequential_reading_mixes_shards_in_a_new_order_each_epoch(make, faces, manifests, monkeypatch):
    """This holds even if the shuffle buffer is far smaller than a shard."""
    monkeypatch.setattr(pipeline, "_SHUFFLE_BUFFER", 1)
    records, _ = recognise(faces, *take(make(read="sequential"), 35))
    epochs = records.ravel()[: 69 * 4].reshape(4, 69)
    sizes = [shard.num_images for manifest in manifests for shard in manifest.shards]
    shards = np.searchsorted(np.cumsum(sizes), epochs[:, :6], side="right")
    assert (np.sort(shards) == np.arange(6)).all()
    assert len(np.unique(shards, axis=0)) == 4


def test_sequential_batches_follow_the_weights(make, faces, monkeypatch):
    """Each sample comes from the source that the sampler chose, and each source has its own epochs."""
    monkeypatch.setattr("dataset.sampling.shuffled._PLAN_SIZE", 100)
    batches = make([0.25, 0.75], read="sequential")
    records = recognise(faces, *take(batches, 50))[0].ravel()
    pools, _ = batches.sampler.positions(np.arange(400))
    np.testing.assert_array_equal(records >= 48, pools == 1)
    assert [(records[start : start + 100] >= 48).sum() for start in range(0, 400, 100)] == [75] * 4
    assert_epochs(records[records < 48], 0, 48)
    assert_epochs(records[records >= 48], 48, 21)


@every_mode
def test_a_resumed_run_gets_the_same_batches(make, read, weights, monkeypatch):
    """Mirrored images are the same too, also after the ends of epochs and of the sampler's plans."""
    monkeypatch.setattr("dataset.sampling.shuffled._PLAN_SIZE", 100)
    monkeypatch.setattr(pipeline, "_SHUFFLE_BUFFER", 10)
    images, identities = take(make(weights, read=read), 30)
    for start in (1, 9, 13, 27):
        resumed = take(make(weights, read=read), 3, start)
        np.testing.assert_array_equal(resumed[0], images[start : start + 3])
        np.testing.assert_array_equal(resumed[1], identities[start : start + 3])


ALL_KINDS = Augmentation(crop=0.4, occlusion=0.4, colour=0.4, low_resolution=0.4, jpeg=0.4)


@every_mode
def test_a_resumed_run_gets_the_same_augmentation(make, read, weights, monkeypatch):
    monkeypatch.setattr(pipeline, "_SHUFFLE_BUFFER", 10)
    images, _ = take(make(weights, read=read, augmentation=ALL_KINDS), 12)
    assert (images != take(make(weights, read=read), 12)[0]).any(axis=(2, 3, 4)).mean() > 0.8
    for start in (1, 9):
        resumed, _ = take(make(weights, read=read, augmentation=ALL_KINDS), 3, start)
        np.testing.assert_array_equal(resumed, images[start : start + 3])


def test_augmentation_gets_whole_faces_in_rgb(make, monkeypatch):
    augmented, _ = take(make(augmentation=ALL_KINDS, rgb_sources=[1]), 5)
    monkeypatch.setattr("tests.dataset.test_pipeline.IMAGE_SIZE", (112, 112))
    whole, identities = take(make(rgb_sources=[1]), 5)
    is_rgb = (identities >= 4)[..., None, None, None]
    rgb = np.where(is_rgb, whole, whole[..., ::-1]) * 128 + 127.5
    for k in range(5):
        expected = preprocess(ALL_KINDS(tf.constant(rgb[k].astype(np.uint8)), (5, k)), (112, 96)).numpy()
        np.testing.assert_array_equal(augmented[k], np.where(is_rgb[k], expected[..., ::-1], expected))


@pytest.mark.parametrize("image_size", [(112, 96), (97, 111), (112, 97), (111, 112)])
def test_the_centre_of_the_mirrored_image_is_cropped(make, image_size, monkeypatch):
    crops = []
    for size in ((112, 112), image_size):
        monkeypatch.setattr("tests.dataset.test_pipeline.IMAGE_SIZE", size)
        crops.append(take(make(), 4)[0])
    whole, received = crops
    top, left = (112 - image_size[0]) // 2, (112 - image_size[1]) // 2
    expected = whole[:, :, top : top + image_size[0], left : left + image_size[1]]
    np.testing.assert_array_equal(received, expected)


@every_mode
def test_a_worker_gets_its_rows_of_every_batch(make, read, weights):
    """The same images are mirrored too."""
    images, identities = take(make(weights, read=read), 4, start=3)
    rows = [0, 1, 5]
    own_images, own_identities = take(make(weights, read=read, rows=rows), 4, start=3)
    np.testing.assert_array_equal(own_images, images[:, rows])
    np.testing.assert_array_equal(own_identities, identities[:, rows])


@every_mode
def test_seeds_give_different_batches(make, faces, read, weights):
    runs = [recognise(faces, *take(make(weights, seed, read=read), 4)) for seed in (5, 6)]
    (records, mirrored), (other_records, other_mirrored) = runs
    assert (records != other_records).any() and (mirrored != other_mirrored).any()


@every_mode
def test_faithful_repeats_one_order_in_all_epochs(make, faces, read, weights, monkeypatch):
    """Row 12 of docs/fidelity.md, `--faithful`. A resumed run keeps the order."""
    monkeypatch.setattr("dataset.sampling.shuffled._PLAN_SIZE", 100)
    monkeypatch.setattr(pipeline, "_SHUFFLE_BUFFER", 10)
    images, identities = take(make(weights, reshuffle=False, read=read), 40)
    records = recognise(faces, images, identities)[0].ravel()
    for first, size in [(0, 69)] if weights is None else [(0, 48), (48, 21)]:
        own = records[(records >= first) & (records < first + size)]
        assert len(own) > 1.5 * size
        assert sorted(own[:size]) == list(range(first, first + size)) != own[:size].tolist()
        np.testing.assert_array_equal(own, np.resize(own[:size], len(own)))
    resumed = take(make(weights, reshuffle=False, read=read), 2, 21)
    np.testing.assert_array_equal(resumed[0], images[21:23])


@every_mode
def test_faithful_keeps_some_sources_rgb(make, faces, read, weights):
    """Row 25 of docs/fidelity.md, `--faithful`. Each image of a mixed batch has the order of its source."""
    images, identities = take(make(weights, read=read, rgb_sources=[1]), 12)
    assert ((identities < 4).any(axis=1) & (identities >= 4).any(axis=1)).any()
    turned = [(face if identity < 4 else face[..., ::-1], identity) for face, identity in faces]
    records, _ = recognise(turned, images, identities)
    plain, _ = recognise(faces, *take(make(weights, read=read), 12))
    np.testing.assert_array_equal(records, plain)


def test_batches_are_drawn_by_one_thread_at_a_time(manifests):
    sources = CombinedSources(manifests)
    batches = TrainingBatches(sources, OneAtATime(sources.sizes, 8), IMAGE_SIZE)
    assert len(take(batches, 60)[0]) == 60


def test_deterministic_runs_read_batches_in_parallel(make, monkeypatch):
    """In deterministic runs, TensorFlow calls stateful functions one after the other."""
    batches = make()
    plain, _ = take(batches, 4)
    load, together, calls = batches._loader.load, threading.Barrier(2, timeout=20), itertools.count()

    def load_together(records):
        if next(calls) < 2:
            together.wait()  # raises an error if no other thread arrives in 20 seconds
        return load(records)

    monkeypatch.setattr(batches._loader, "load", load_together)
    tf.config.experimental.enable_op_determinism()
    try:
        deterministic, _ = take(batches, 4)
    finally:
        disable_op_determinism()
    np.testing.assert_array_equal(deterministic, plain)


def test_a_program_ends_while_batches_are_read_ahead(manifests):
    program = """
import sys
from dataset.sampling.combine import CombinedSources
from dataset.records.manifest import read_manifest
from dataset.pipeline import TrainingBatches
from dataset.sampling.shuffled import ShuffledSampler
sources = CombinedSources([read_manifest(sys.argv[1])])
steps = TrainingBatches(sources, ShuffledSampler(sources.sizes, 48), (112, 96)).start_at(0)
next(steps)
raise SystemExit(3)
"""
    command = [sys.executable, "-c", program, str(manifests[0].folder)]
    assert subprocess.run(command, cwd=Path(__file__).parents[2], timeout=120).returncode == 3


@pytest.fixture
def make_groups(manifests):
    """Returns a function that makes batches of 3 identities with 2 images each from both sets."""

    def make(weights=None, **options):
        sources = CombinedSources(manifests)
        sampler = IdentitySampler(sources.labels, 6, 2, 5, weights, **options)
        return TrainingBatches(sources, sampler, IMAGE_SIZE, PipelineOptions(seed=5))

    return make


# The sources have 4 and 3 identities, so passes end within batches.
@pytest.mark.parametrize(
    "options",
    [{}, {"weights": [0.5, 0.5]}, {"with_replacement": True}],
    ids=["by number", "by weight", "with replacement"],
)
def test_batches_have_several_images_of_each_identity(make_groups, faces, options):
    """Row 13 of docs/fidelity.md. `recognise` compares each identity with that of the image."""
    batches = make_groups(**options)
    images, identities = take(batches, 25)
    records, _ = recognise(faces, images, identities)
    np.testing.assert_array_equal(records, [batches.sampler.batch(k) for k in range(25)])
    np.testing.assert_array_equal(identities[:, ::2], identities[:, 1::2])
    num_distinct = [len(np.unique(batch)) for batch in identities]
    assert (min(num_distinct) == 3) == ("with_replacement" not in options)
    for start in (1, 12, 23):
        resumed = take(make_groups(**options), 2, start)
        np.testing.assert_array_equal(resumed[0], images[start : start + 2])
        np.testing.assert_array_equal(resumed[1], identities[start : start + 2])


def test_half_of_the_images_are_mirrored(make, faces):
    plain, _ = recognise(faces, *take(make(mirror=False), 40))
    records, mirrored = recognise(faces, *take(make(mirror=True), 40))
    np.testing.assert_array_equal(records, plain)
    assert 124 < mirrored.sum() < 196  # 160 +- 4 standard deviations
    assert len(np.unique(mirrored, axis=0)) > 30  # Each batch mirrors other images.
    assert ((records == records[0, 0]) & (mirrored == 0)).any()
    assert ((records == records[0, 0]) & (mirrored == 1)).any()


def test_more_shards_than_a_process_may_open_can_be_read(make, faces, monkeypatch):
    monkeypatch.setattr(combine, "_MAX_OPEN_SHARDS", 2)
    batches = make()
    assert len(batches.sources.shards) == 6
    records, _ = recognise(faces, *take(batches, 10))
    np.testing.assert_array_equal(records, [batches.sampler.batch(k) for k in range(10)])


def test_every_share_has_its_type_and_static_shape(make):
    for read in READ_MODES:
        images, identities = make(read=read, parts=2, devices=("CPU:0", "CPU:1")).dataset(0).element_spec
        pixels = tf.TensorSpec((2, 112, 112, 3), tf.uint8)
        assert images == (RawImages(pixels, tf.TensorSpec((2,), tf.bool)),) * 4
        assert identities == (tf.TensorSpec((2,), tf.int64),) * 4


@pytest.mark.parametrize("options", [{}, {"read": "sequential"}, {"augmentation": ALL_KINDS}])
def test_shares_are_on_their_devices_and_make_up_the_batch(make, options):
    given = {"rgb_sources": [1], **options}
    whole = take(make(**given), 3, start=2)
    batches = make(**given, parts=2, devices=("CPU:1", "CPU:0"))
    for k, batch in enumerate(itertools.islice(batches.start_at(2), 3)):
        devices = ["CPU:1", "CPU:0"] * 2
        for shares in batch:
            for share, device in zip(shares, devices, strict=True):
                for tensor in tf.nest.flatten(share):
                    assert tensor.device.endswith(device) and tensor.backing_device.endswith(device)
        for received, expected in zip(network_input(batches, batch), whole, strict=True):
            np.testing.assert_array_equal(received, expected[k])


def test_batches_are_copied_ahead(make):
    """Another thread copies at most two batches ahead. Its errors are raised when their batch is taken."""
    calls = []

    def read():
        calls.append(threading.get_ident())
        if len(calls) == 4:
            raise OSError("the fourth batch")
        return len(calls)

    batches = pipeline._read_ahead(read, 2)
    taken = []
    with pytest.raises(OSError, match="fourth"):
        for batch in batches:
            taken.append(batch)
            end = time.monotonic() + 10
            while len(calls) < batch + 2 and time.monotonic() < end:
                time.sleep(0.001)
            assert len(calls) == batch + 2
    assert taken == [1, 2, 3]
    assert set(calls) - {threading.get_ident()} == set(calls[:1])


@pytest.fixture
def small(tmp_path):
    """A converted source of nine images in three shards."""
    return write_converted(tmp_path / "small", make_images(3, 3), num_shards=3)


def error_of(batches, start=0, num_good=0, kind=ValueError):
    """Returns the message of the error that follows `num_good` batches."""
    steps = batches.start_at(start)
    for _ in range(num_good):
        next(steps)
    with pytest.raises(kind) as error:
        for _ in steps:
            pass
    assert type(error.value) is kind
    assert error.value.__suppress_context__  # It hides TensorFlow's traceback.
    return str(error.value)


def test_a_damaged_record_is_named(small):
    """Row 27 of docs/fidelity.md."""
    shard = small.folder / small.shards[1].name
    offset = int(small.open_index()["offset"][4])
    flip_bit(shard, offset + 300)
    message = error_of(one_by_one(small), num_good=4)
    place = f"{shard}: record at byte {offset} (record 4 of small, label 1)"
    assert message.startswith(f"{place}: expected data with checksum")
    assert "\n" not in message
    next(one_by_one(small).start_at(5))


def test_a_damaged_record_in_sequential_reading_is_an_error(small):
    flip_bit(small.folder / small.shards[1].name, 300)
    message = error_of(one_by_one(small, "sequential"))
    assert message.startswith(f"{small.folder}: a batch cannot be read: ")
    assert "corrupted record at" in message


@pytest.mark.parametrize("read", READ_MODES)
@pytest.mark.parametrize(
    "image, reason",
    [
        (encoded_image(0)[:-300], "Invalid JPEG"),
        (b"no image", "Unknown image"),
        (encoded_image(0, 96, 112), "expected an image of 112x112, received 96x112"),
    ],
    ids=["cut off", "not an image", "another size"],
)
def test_an_image_that_cannot_be_decoded_is_named(tmp_path, read, image, reason):
    images = make_images(3, 3)
    images[4] = image, 1
    manifest = write_converted(tmp_path / "bad", images)
    message = error_of(one_by_one(manifest, read))
    shard, offset = manifest.folder / manifest.shards[0].name, int(manifest.open_index()["offset"][4])
    assert message.startswith(f"{shard}: record at byte {offset} (record 4 of bad, label 1): ")
    assert re.search(reason, message)


def test_a_shard_that_cannot_be_read_is_an_error(small):
    shard = small.folder / small.shards[2].name
    shard.unlink()
    assert str(shard) in error_of(one_by_one(small), num_good=6, kind=FileNotFoundError)
    assert str(shard) in error_of(one_by_one(small, "sequential"))


def test_errors_of_an_earlier_run_are_forgotten(tmp_path):
    images = make_images(3, 3)
    images[8] = b"no image", 2
    manifest = write_converted(tmp_path / "bad", images)
    flip_bit(manifest.folder / manifest.shards[0].name, 300)
    batches = one_by_one(manifest)
    assert "record at byte 0 (record 0 of bad, label 0): expected" in error_of(batches)
    assert "Unknown image" in error_of(batches, start=8)


@pytest.mark.parametrize("image_size", [(113, 96), (112, 113)])
def test_images_that_are_too_small_are_an_error(small, image_size):
    sources = CombinedSources([small])
    message = (
        f"{small.folder}: images are 112x112, too small for an image size of {image_size[0]}x{image_size[1]}"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        TrainingBatches(sources, EveryRecord(), list(image_size))
