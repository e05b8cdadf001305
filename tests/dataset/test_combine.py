import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

from dataset.records.manifest import INDEX_NAME
from dataset.records.tfrecord import RECORD_OVERHEAD, decode_example
from dataset.sampling import combine
from dataset.sampling.combine import CombinedSources
from tests.dataset.samples import flip_bit, write_converted

# Record r of source s contains the bytes "s-r". Labels are not in order.
LABELS = {"a": [0, 1, 1, 0, 2, 2, 1], "b": [1, 0, 3, 2, 0], "c": [0, 0, 1]}
NUM_SHARDS = {"a": 3, "b": 2, "c": 4}  # "c" has an empty shard


def images(name):
    return [(f"{name}-{r}".encode(), label) for r, label in enumerate(LABELS[name])]


@pytest.fixture
def manifests(tmp_path):
    return [write_converted(tmp_path / name, images(name), NUM_SHARDS[name]) for name in LABELS]


def num_open_shards(folder):
    """Returns the number of TFRecord files below `folder` that this process has open."""
    opened = [entry.resolve() for entry in Path("/proc/self/fd").iterdir()]
    return sum(path.suffix == ".tfrecord" and folder in path.parents for path in opened)


def test_one_source_keeps_its_records(manifests):
    sources = CombinedSources(manifests[:1])
    assert (sources.sizes, sources.num_images, sources.num_identities) == ([7], 7, 3)
    examples, numbers = sources.read(np.array([6, 0]))
    assert [decode_example(example) for example in examples] == [(b"a-6", 1), (b"a-0", 0)]
    assert numbers.tolist() == [0, 0]


def test_records_have_consecutive_numbers(manifests):
    """The numbers continue across shards, sources and an empty shard."""
    sources = CombinedSources(manifests)
    assert sources.sizes == [7, 5, 3]
    assert (sources.num_images, sources.num_identities) == (15, 3 + 4 + 2)
    assert sources.label_offsets.tolist() == [0, 3, 7]
    assert sources.image_size == (112, 112)
    expected = [(image, label, number) for number, name in enumerate(LABELS) for image, label in images(name)]
    for records in (np.arange(15), np.random.default_rng(0).integers(0, 15, 100)):
        examples, numbers = sources.read(records)
        assert numbers.dtype == np.int64
        received = [
            (*decode_example(example), number) for example, number in zip(examples, numbers, strict=True)
        ]
        assert received == [expected[record] for record in records]


def test_every_source_keeps_its_labels(manifests):
    labels = CombinedSources(manifests).labels
    assert [source_labels.tolist() for source_labels in labels] == list(LABELS.values())
    assert all(source_labels.dtype == np.uint32 for source_labels in labels)


def test_an_index_is_read_in_chunks(manifests, monkeypatch):
    """The rows are read in chunks, and the last chunk is shorter."""
    monkeypatch.setattr("dataset.records.manifest._INDEX_CHUNK", 2)
    test_every_source_keeps_its_labels(manifests)
    test_a_label_out_of_range_is_an_error(manifests)


def test_every_source_lists_its_shards(manifests):
    sources = CombinedSources(manifests)
    assert [len(sources.shards_of(source)) for source in range(3)] == [3, 2, 4]
    assert sources.shards_of(1) == [
        str(manifests[1].folder / f"train-0000{number}-of-00002.tfrecord") for number in (0, 1)
    ]


def test_different_image_sizes_are_an_error(manifests):
    other = dataclasses.replace(manifests[1], image_size=(112, 96))
    with pytest.raises(ValueError) as error:
        CombinedSources([manifests[0], other, manifests[2]])
    assert str(error.value) == (
        f"{other.folder}: expected images of 112x112 as in {manifests[0].folder}, received 112x96"
    )


def test_a_label_out_of_range_is_an_error(manifests):
    path = manifests[1].folder / INDEX_NAME
    index = np.load(path)
    index["label"][3] = 4
    np.save(path, index)
    CombinedSources(manifests[:1])
    message = re.escape(f"{manifests[1].folder}: record 3: expected a label in [0, 4), received 4")
    with pytest.raises(ValueError, match=message):
        CombinedSources(manifests)


@pytest.mark.parametrize("place", [0, 9, 14, -1])  # length, its checksum, data, its checksum
def test_a_flipped_bit_is_an_error_that_names_shard_and_offset(manifests, place):
    sources = CombinedSources(manifests)
    entry = np.load(manifests[1].folder / INDEX_NAME)[4]  # the second record of the second shard
    assert entry["offset"] > 0
    shard = manifests[1].folder / "train-00001-of-00002.tfrecord"
    flip_bit(shard, int(entry["offset"]) + place % (int(entry["length"]) + RECORD_OVERHEAD))
    assert len(list(sources.read(np.delete(np.arange(15), 11))[0])) == 14
    examples, _ = sources.read(np.array([0, 11]))
    assert decode_example(next(examples)) == (b"a-0", 0)
    with pytest.raises(ValueError, match=re.escape(f"{shard}: record at byte {entry['offset']}: expected")):
        next(examples)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts open files")
def test_more_shards_than_a_process_may_open_can_be_read(manifests, tmp_path, monkeypatch):
    monkeypatch.setattr(combine, "_MAX_OPEN_SHARDS", 2)
    sources = CombinedSources(manifests)
    expected = images("a") + images("b") + images("c")
    for record in np.random.default_rng(1).integers(0, 15, 50):
        (example,), _ = sources.read(np.array([record]))
        assert decode_example(example) == expected[record]
        assert num_open_shards(tmp_path) <= 2
    assert num_open_shards(tmp_path) == 2
    del sources
    assert num_open_shards(tmp_path) == 0
