"""Tests that a batch replaces images that cannot be used (row 27 of docs/fidelity.md)."""

import itertools

import numpy as np
import pytest

from dataset.pipeline import PipelineOptions, TrainingBatches
from dataset.sampling.batch_loader import BatchLoader, replacements
from dataset.sampling.by_identity import IdentitySampler
from dataset.sampling.combine import CombinedSources
from dataset.sampling.shuffled import ShuffledSampler
from tests.dataset.samples import flip_bit, make_images, write_converted

IMAGE_SIZE = (112, 96)
READ_MODES = ("random", "sequential")
DAMAGED, CUT_OFF, NO_IMAGE = 7, 20, 31
NUM_BATCHES = 14


@pytest.fixture
def manifest(tmp_path):
    """36 images of four identities in two shards. A record is damaged, and two images cannot be decoded."""
    images = make_images(4, 9)
    images[CUT_OFF] = images[CUT_OFF][0][:-400], images[CUT_OFF][1]
    images[NO_IMAGE] = b"no image", images[NO_IMAGE][1]
    manifest = write_converted(tmp_path / "faces", images, num_shards=2)
    flip_bit(manifest.folder / manifest.shards[0].name, int(manifest.open_index()["offset"][DAMAGED]) + 300)
    return manifest


@pytest.fixture
def good(tmp_path):
    """The same set without damage."""
    return write_converted(tmp_path / "good", make_images(4, 9), num_shards=2)


def make(manifest, sampler=None, read="random", max_bad_images=9, mirror=True, rows=None):
    sources = CombinedSources([manifest])
    if sampler == "identities":
        sampler = IdentitySampler(sources.labels, 6, 3, 1)
    else:
        sampler = ShuffledSampler(sources.sizes, 6, 1)
    return TrainingBatches(
        sources,
        sampler,
        IMAGE_SIZE,
        PipelineOptions(mirror=mirror, seed=1, read=read, max_bad_images=max_bad_images, rows=rows),
    )


def take(batches, start=0, num=NUM_BATCHES):
    pairs = list(itertools.islice(batches.start_at(start), num))
    images = [share.to_input(IMAGE_SIZE).numpy() for (share,), _ in pairs]
    return np.stack(images), np.stack([share.numpy() for _, (share,) in pairs])


@pytest.mark.parametrize(
    ("identities", "bad", "expected"),
    [
        ([1, 2, 3], [1], [0, 2, 2]),  # no other image of its identity: the next one
        ([1, 2, 3], [2], [0, 1, 0]),  # The search wraps around at the end.
        ([1, 2, 3, 2, 1], [1], [0, 3, 2, 3, 4]),  # an image of its identity before a nearer one
        ([5, 5, 5, 6, 6, 6], [1, 2], [0, 0, 0, 3, 4, 5]),
        ([5, 5, 6, 6], [0, 1], [2, 2, 2, 3]),  # a whole group
        ([5, 6], [], [0, 1]),
    ],
)
def test_replacements_are_near_and_of_the_same_identity_if_possible(identities, bad, expected):
    is_bad = np.isin(np.arange(len(identities)), bad)
    assert replacements(np.array(identities), is_bad).tolist() == expected


@pytest.mark.parametrize("sampler", ["images", "identities"])
def test_bad_records_are_replaced(manifest, good, sampler):
    batches = make(manifest, sampler, mirror=False)
    images, identities = take(batches)
    whole, labels = take(make(good, sampler, mirror=False))
    bad = {DAMAGED, CUT_OFF, NO_IMAGE}
    num_replaced = 0
    for k in range(NUM_BATCHES):
        records = batches.sampler.batch(k)
        is_bad = np.isin(records, sorted(bad))
        chosen = replacements(labels[k], is_bad)
        np.testing.assert_array_equal(images[k], whole[k][chosen])
        np.testing.assert_array_equal(identities[k], labels[k][chosen])
        num_replaced += is_bad.sum()
        if sampler == "identities":
            np.testing.assert_array_equal(identities[k], labels[k])  # Groups keep their identity.
    assert num_replaced > 3
    assert batches.bad_images.keys() == bad


@pytest.mark.parametrize("sampler", ["images", "identities"])
def test_a_resumed_run_gets_the_same_batches(manifest, sampler):
    """The bad records that earlier batches found are not saved and do not matter."""
    images, identities = take(make(manifest, sampler))
    for start in range(0, NUM_BATCHES, 2):
        resumed = take(make(manifest, sampler), start, 2)
        np.testing.assert_array_equal(resumed[0], images[start : start + 2])
        np.testing.assert_array_equal(resumed[1], identities[start : start + 2])


@pytest.mark.parametrize("sampler", ["images", "identities"])
@pytest.mark.parametrize("rows", [[0, 1, 2], [3, 4, 5], [1, 4]])
def test_a_worker_gets_its_rows_of_the_same_batches(manifest, sampler, rows):
    """This holds even if the replacement is also bad and belongs to another worker."""
    images, identities = take(make(manifest, sampler))
    own_images, own_identities = take(make(manifest, sampler, rows=rows))
    np.testing.assert_array_equal(own_images, images[:, rows])
    np.testing.assert_array_equal(own_identities, identities[:, rows])


def test_a_replacement_is_not_a_bad_record_of_another_worker(tmp_path):
    """The first record is damaged. The second belongs to another worker and cannot be decoded."""
    images = make_images(1, 6)
    images[1] = b"no image", 0
    manifest = write_converted(tmp_path / "faces", images)
    flip_bit(manifest.folder / manifest.shards[0].name, 300)
    sources = CombinedSources([manifest])
    loaders = [BatchLoader(sources, rows) for rows in ([0], range(6))]
    (own, *_, bad), (whole, *_) = (loader.load(np.arange(6)) for loader in loaders)
    assert bad == [0, 1]
    np.testing.assert_array_equal(own, whole[:1])
    for place, expected in enumerate([2, 2, 2, 3, 4, 5]):
        np.testing.assert_array_equal(whole[place], whole[expected])
    assert len(np.unique(whole.reshape(6, -1), axis=0)) == 4


def test_a_worker_reads_only_its_own_records(tmp_path):
    manifest = write_converted(tmp_path / "faces", make_images(1, 6))
    sources = CombinedSources([manifest])
    expected, *_ = BatchLoader(sources, [1, 4]).load(np.arange(6))
    flip_bit(manifest.folder / manifest.shards[0].name, 300)  # in the first record
    loader = BatchLoader(sources, [1, 4])
    images, *_, bad = loader.load(np.arange(6))
    assert bad == [] and loader.reasons == {}
    np.testing.assert_array_equal(images, expected)


def test_bad_images_are_named_when_their_batch_is_taken(manifest):
    batches = make(manifest)
    met = {}
    for k, _ in zip(range(NUM_BATCHES), batches.start_at(0), strict=False):
        bad = [r for r in batches.sampler.batch(k).tolist() if r in (DAMAGED, CUT_OFF, NO_IMAGE)]
        met |= dict.fromkeys(bad)
        assert list(batches.bad_images) == list(met)
    offsets = manifest.open_index()["offset"]
    for record, shard, label, why in (
        (DAMAGED, 0, 0, "expected data with checksum"),
        (CUT_OFF, 1, 2, "expected an image, received one that cannot be decoded"),
        (NO_IMAGE, 1, 3, "expected an image, received one that cannot be decoded"),
    ):
        path = manifest.folder / manifest.shards[shard].name
        place = f"{path}: record at byte {offsets[record]} (record {record} of faces, label {label}): "
        assert batches.bad_images[record].startswith(place + why)
        assert "\n" not in batches.bad_images[record]


@pytest.mark.parametrize("limit", [0, 1, 2])
def test_too_many_bad_images_are_an_error(manifest, limit):
    batches = make(manifest, max_bad_images=limit)
    given = 0
    with pytest.raises(ValueError, match=rf" {limit} .*--max_bad_images") as error:
        for _ in itertools.islice(batches.start_at(0), NUM_BATCHES):
            given += 1
    assert str(error.value).startswith(str(manifest.folder))
    bad = {DAMAGED, CUT_OFF, NO_IMAGE}
    counts = [len(bad & {r for j in range(k + 1) for r in batches.sampler.batch(j)}) for k in range(9)]
    assert given == next(k for k, count in enumerate(counts) if count > limit)


def test_a_batch_without_a_good_image_is_an_error(tmp_path):
    manifest = write_converted(tmp_path / "none", [(b"no image", i % 2) for i in range(12)])
    with pytest.raises(ValueError, match="a batch of 6, "):
        take(make(manifest, max_bad_images=99))


def test_a_lost_shard_is_named_and_not_skipped(good):
    shard = good.folder / good.shards[1].name
    batches = make(good, max_bad_images=99)
    steps = batches.start_at(0)
    next(steps)
    with shard.open("r+b") as file:
        file.truncate(20_000)
    message = f"{shard}: expected [0-9]+ bytes, received 20000 bytes"
    with pytest.raises(ValueError, match=message):
        for _ in steps:
            pass
    shard.unlink()
    batches.sources.check_shard(0)
    with pytest.raises(ValueError, match="no such file"):
        batches.sources.check_shard(35)


def test_sequential_reading_replaces_undecodable_images(tmp_path):
    images = make_images(4, 9)
    images[CUT_OFF] = b"no image", images[CUT_OFF][1]
    manifest = write_converted(tmp_path / "faces", images, num_shards=2)
    batches = make(manifest, read="sequential")
    pixels, identities = take(batches, num=13)
    assert list(batches.bad_images) == [CUT_OFF]
    resumed = take(make(manifest, read="sequential"), 5, 8)
    np.testing.assert_array_equal(resumed[0], pixels[5:])
    np.testing.assert_array_equal(resumed[1], identities[5:])


@pytest.mark.parametrize("read", READ_MODES)
def test_the_records_of_a_batch_are_known(good, read):
    batches = make(good, read=read)
    _, identities = take(batches, num=8)
    for k in range(8):
        places = batches.records_of(k)
        assert [place.identity for place in places] == identities[k].tolist()
        assert {place.source for place in places} == {"good"}
    if read == "random":
        assert [place.record for place in batches.records_of(3)] == batches.sampler.batch(3).tolist()
    else:
        first_epoch = [place.record for k in range(6) for place in batches.records_of(k)]
        assert sorted(first_epoch) == list(range(36))
