import dataclasses
import hashlib
import json

import numpy as np
import pytest

from dataset.records.manifest import (
    INDEX_NAME,
    MANIFEST_NAME,
    RECORD_DTYPE,
    Manifest,
    Shard,
    read_manifest,
    verify_checksums,
)
from dataset.records.tfrecord import TFRecordFile
from tests.dataset.samples import encode_example, write_record


@pytest.fixture
def manifest(tmp_path):
    """A manifest of two shards with three and two images."""
    rows, shards = [], []
    for name, labels in (("a.tfrecord", (2, 0, 1)), ("b.tfrecord", (1, 1))):
        with (tmp_path / name).open("wb") as file:
            for label in labels:
                example = encode_example(b"image" * label, label)
                rows.append((file.tell(), len(example), label))
                write_record(file, example)
        data = (tmp_path / name).read_bytes()
        shards.append(Shard(name, len(labels), len(data), hashlib.sha256(data).hexdigest()))
    np.save(tmp_path / INDEX_NAME, np.array(rows, RECORD_DTYPE))
    manifest = Manifest(
        folder=tmp_path,
        source="made-up",
        num_identities=3,
        num_images=5,
        image_size=(112, 96),
        colour="none",
        seed=7,
        verify="full",
        fingerprint="abc",
        num_bad=1,
        num_label_mismatches=2,
        index_sha256=hashlib.sha256((tmp_path / INDEX_NAME).read_bytes()).hexdigest(),
        shards=tuple(shards),
    )
    manifest.write()
    return manifest


def edit(manifest, **changes):
    path = manifest.folder / MANIFEST_NAME
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **changes}))


def test_a_written_manifest_is_read_back(manifest):
    assert read_manifest(manifest.folder) == manifest
    assert read_manifest(str(manifest.folder)) == manifest
    assert manifest.num_bytes == sum(shard.num_bytes for shard in manifest.shards)
    assert not list(manifest.folder.glob("*.tmp"))


def test_every_record_is_found_through_the_index(manifest):
    index = manifest.open_index()
    assert isinstance(index, np.memmap) and index.dtype == RECORD_DTYPE
    assert index["label"].tolist() == [2, 0, 1, 1, 1]
    ends = np.cumsum([shard.num_images for shard in manifest.shards])
    for record, row in enumerate(index):
        shard = manifest.shards[np.searchsorted(ends, record, side="right")]
        file = TFRecordFile(manifest.folder / shard.name)
        data = file.read(int(row["offset"]), int(row["length"]))
        assert data == encode_example(b"image" * row["label"], int(row["label"]))


def test_a_moved_folder_is_still_read(manifest, tmp_path):
    moved = tmp_path.with_name("moved")
    tmp_path.rename(moved)
    assert read_manifest(moved) == dataclasses.replace(manifest, folder=moved)


def test_a_missing_manifest_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"manifest.json: "):
        read_manifest(tmp_path)


def test_another_version_is_an_error(manifest):
    edit(manifest, version=99)
    with pytest.raises(ValueError, match=r"manifest.json: .* 1, received 99"):
        read_manifest(manifest.folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "3"])
def test_other_json_is_an_error(manifest, text):
    (manifest.folder / MANIFEST_NAME).write_text(text)
    with pytest.raises(ValueError, match=r"manifest.json: "):
        read_manifest(manifest.folder)


def test_wrong_fields_are_errors(manifest):
    edit(manifest, image_size=[112])
    with pytest.raises(ValueError, match=r"manifest.json, image_size: .* received 1"):
        read_manifest(manifest.folder)


@pytest.mark.parametrize("name", ["../other.tfrecord", "x" * 10**5, ""])
def test_names_of_shards_must_be_file_names(manifest, name):
    first, *others = [dataclasses.asdict(shard) for shard in manifest.shards]
    edit(manifest, shards=[{**first, "name": name}, *others])
    with pytest.raises(ValueError, match=r"manifest.json, shards\[0\]: name") as error:
        read_manifest(manifest.folder)
    assert len(str(error.value)) < 500


def test_a_wrong_count_is_an_error(manifest):
    edit(manifest, num_images=6)
    with pytest.raises(ValueError, match=r"manifest.json: .* 6 .* 5$"):
        read_manifest(manifest.folder)


def test_a_missing_or_shortened_shard_is_an_error(manifest):
    shard = manifest.shards[1]
    path = manifest.folder / shard.name
    # At a record boundary TensorFlow itself would not notice.
    path.write_bytes(path.read_bytes()[: manifest.open_index()[4]["offset"]])
    with pytest.raises(ValueError, match=f"b.tfrecord: .* {shard.num_bytes} "):
        read_manifest(manifest.folder)
    path.unlink()
    with pytest.raises(ValueError, match=r"b.tfrecord: "):
        read_manifest(manifest.folder)


def test_a_missing_or_wrong_index_is_an_error(manifest):
    path = manifest.folder / INDEX_NAME
    sound = path.read_bytes()
    for damaged in (sound[:-1], sound[:20], b""):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"index.npy: "):
            read_manifest(manifest.folder)
    np.save(path, np.zeros(4, RECORD_DTYPE))
    with pytest.raises(ValueError, match=r"index.npy: .* 5 "):
        read_manifest(manifest.folder)
    path.unlink()
    with pytest.raises(ValueError, match=r"index.npy: "):
        read_manifest(manifest.folder)


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<i8', 'fortran_order': False, 'shape': (True,), }",
        "{'descr': '<i8', 'fortran_order': False, 'shape': (2000000000000,), }",
        "{'descr': [('offset', '<u8'), ('length', '<u4'), ('label', '<u4')], 'fortran_order': Fal",
        "{'descr': '<i8', 'fortran_order': False",
        "(" * 200,
        "{}",
        "[]",
        "",
        "\0",
    ],
)
def test_a_damaged_header_of_the_index_is_an_error(manifest, header):
    path = manifest.folder / INDEX_NAME
    rows = path.read_bytes()[-5 * RECORD_DTYPE.itemsize :]
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + rows)
    with pytest.raises(ValueError, match=r"index.npy: "):
        read_manifest(manifest.folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_images": -5},
        {"num_identities": "3"},
        {"image_size": [112, -96]},
        {"shards": {}},
        {"shards": [1]},
        {"source": ["made-up"]},
        {"version": [1]},
        {"index_sha256": None},
    ],
)
def test_fields_with_a_wrong_type_or_range_are_errors(manifest, changes):
    edit(manifest, **changes)
    with pytest.raises(ValueError, match=r"manifest.json"):
        read_manifest(manifest.folder)


def test_shards_outside_of_the_folder_are_refused(manifest):
    shards = [dataclasses.asdict(shard) for shard in manifest.shards]
    shards[0]["name"] = "../a.tfrecord"
    edit(manifest, shards=shards)
    with pytest.raises(ValueError, match=r"manifest.json.*a\.tfrecord"):
        read_manifest(manifest.folder)


def test_damage_is_found_by_the_checksums(manifest):
    seen = []
    verify_checksums(manifest, lambda files: seen.extend(files) or files)
    assert len(seen) == 3
    for name in ("a.tfrecord", "b.tfrecord", INDEX_NAME):
        path = manifest.folder / name
        sound = path.read_bytes()
        path.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
        with pytest.raises(ValueError, match=f"{name}: "):
            verify_checksums(manifest)
        path.write_bytes(sound)
