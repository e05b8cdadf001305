"""Tests reading labels and images from InsightFace's and flat `.rec` files."""

import hashlib
import json
import logging
import multiprocessing
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from dataset.config import SourceConfig
from dataset.records.recordio import MAGIC, RecordReader, RecordWriter, pack_image
from dataset.sources.insightface_rec import InsightFaceRec, _check_ranges, _first_identity_record, fingerprint

GOLDEN = Path(__file__).parents[1] / "golden" / "rec"
GOLDEN_SETS = ("rec_small", "rec_vector_labels")
# A label vector that contains the magic where a record is split.
MAGIC_LABEL = [1.0, float(np.frombuffer(MAGIC, "<f4")[0])]


def write_flat(folder, labels):
    with RecordWriter(folder / "train.rec") as writer:
        for key, label in enumerate(labels):
            writer.write(key, pack_image(label, key, b"image %d" % key))


def write_identities(folder, ranges, num_images=6, record_0=None):
    first = num_images + 1
    with RecordWriter(folder / "train.rec") as writer:
        writer.write(0, pack_image(record_0 or [first, first + len(ranges)], 0, b""))
        for key in range(1, first):
            writer.write(key, pack_image(0.0, key, b"image %d" % key))
        for i, labels in enumerate(ranges):
            writer.write(first + i, pack_image(labels, first + i, b""))


class CountingReader(RecordReader):
    """Remembers which records were read."""

    def __init__(self, rec_path):
        super().__init__(rec_path)
        self.read_keys = []

    def read(self, key):
        self.read_keys.append(int(key))
        return super().read(key)


# Valid files.


@pytest.mark.parametrize("name", GOLDEN_SETS)
@pytest.mark.parametrize("with_index", [True, False])
def test_files_of_mxnet_are_read(name, with_index, tmp_path):
    folder = GOLDEN / name
    if not with_index:
        folder = shutil.copytree(folder, tmp_path / "copy")
        (folder / "train.idx").unlink()
    expected = json.loads((folder / "expected.json").read_text())
    rec = InsightFaceRec(folder)
    assert (rec.num_images, rec.num_identities) == (len(expected["images"]), expected["identities"])
    assert rec.image_size == (112, 112)
    assert rec.labels.dtype == np.int64
    assert rec.labels.tolist() == [identity for _, identity, _, _ in expected["images"]]
    total = 0
    for i, (key, identity, num_bytes, sha256) in enumerate(expected["images"]):
        image, own_label = rec.read(i)
        assert (len(image), hashlib.sha256(image).hexdigest()) == (num_bytes, sha256), rec.describe(i)
        assert own_label == identity
        assert type(own_label) is float
        assert rec.describe(i) == f"{folder / 'train.rec'} record {key}"
        total += num_bytes
    assert total <= rec.num_bytes <= 2 * total


def test_the_path_may_be_that_of_the_rec_file(tmp_path):
    for file in ("train.rec", "train.idx"):
        shutil.copy(GOLDEN / "rec_small" / file, (tmp_path / "faces").with_suffix(Path(file).suffix))
    rec = InsightFaceRec(str(tmp_path / "faces.rec"))
    assert (rec.num_images, rec.num_identities, rec.image_size) == (30, 6, None)


def test_image_records_are_not_read_for_the_labels(tmp_path):
    write_identities(tmp_path, [(1, 4), (4, 7)])
    rec = InsightFaceRec(tmp_path, reader=CountingReader)
    assert set(rec._reader.read_keys) == {0, 7, 8}


def test_a_label_is_the_position_of_the_identity_record(tmp_path):
    write_identities(tmp_path, [(3, 7), (2, 2), (1, 3)])
    rec = InsightFaceRec(tmp_path)
    assert rec.labels.tolist() == [2, 2, 0, 0, 0, 0]
    assert rec.num_identities == 3
    assert rec.read(0) == (b"image 1", 0.0)


def test_an_image_of_no_identity_is_left_out_and_logged(tmp_path, caplog):
    write_identities(tmp_path, [(1, 3), (4, 6)])
    with caplog.at_level(logging.WARNING):
        rec = InsightFaceRec(tmp_path)
    assert rec.labels.tolist() == [0, 0, 1, 1]
    assert [rec.read(i)[0] for i in range(4)] == [b"image 1", b"image 2", b"image 4", b"image 5"]
    assert "2 of the images [1, 7) belong to no identity" in caplog.text


def test_flat_files_are_read(tmp_path):
    write_flat(tmp_path, [3, [1.0, 0.25, 0.5], 0, [2.0], MAGIC_LABEL, 3])
    rec = InsightFaceRec(tmp_path)
    assert rec.labels.tolist() == [3, 1, 0, 2, 1, 3]
    assert (rec.num_images, rec.num_identities, rec.image_size) == (6, 4, None)
    assert rec.read(1) == (b"image 1", 1.0)
    (tmp_path / "property").write_text("9,112,96\n")
    rec = InsightFaceRec(tmp_path)
    assert (rec.num_identities, rec.image_size) == (9, (112, 96))


def test_labels_of_flat_files_need_only_the_heads(tmp_path):
    write_flat(tmp_path, [0, 1, [1.0, 2.0]])
    rec = InsightFaceRec(tmp_path, reader=CountingReader)
    assert rec._reader.read_keys == [0]  # to find out whether it is an image
    assert rec.labels.tolist() == [0, 1, 1]


def test_a_flat_file_may_have_two_labels_in_record_0(tmp_path):
    """Only a record 0 without an image belongs to the InsightFace layout."""
    write_flat(tmp_path, [[0.0, 5.0], [1.0, 6.0]])
    assert InsightFaceRec(tmp_path).labels.tolist() == [0, 1]


# Sets with so many records that labels round their numbers. Here labels are float16, exact up to 2048.


def write_rounded(folder, counts, own_labels=None, change=None):
    """Writes identities with `counts` images each, like InsightFace, with labels rounded to float16."""
    labels = np.repeat(np.arange(len(counts)), counts)
    first = len(labels) + 1
    ends = np.cumsum(counts) + 1
    ranges = np.stack([ends - counts, ends], axis=1)
    if change:
        change(ranges)
    with RecordWriter(folder / "train.rec") as writer:
        writer.write(0, pack_image(np.float16([first, first + len(counts)]), 0, b""))
        for key, label in enumerate(labels if own_labels is None else own_labels, start=1):
            writer.write(key, pack_image(label, key, b"image %d" % key))
        for key, of_identity in enumerate(ranges, start=first):
            writer.write(key, pack_image(np.float16(of_identity), key, b""))
    return labels


@pytest.fixture
def float16_labels(monkeypatch):
    monkeypatch.setattr("dataset.sources.insightface_rec._STORED", np.float16)
    monkeypatch.setattr("dataset.sources.insightface_rec._EXACT", 2048)


@pytest.mark.parametrize("more", range(9))
def test_ranges_of_rounded_record_numbers_are_recovered(more, float16_labels, tmp_path):
    counts = np.random.default_rng(more).integers(1, 40, 250)
    counts[77] = 0
    counts[-1] += more  # The identity records start at any of the numbers that round to the same value.
    labels = write_rounded(tmp_path, counts)
    assert len(labels) > 4096
    rec = InsightFaceRec(tmp_path)
    assert (rec.num_images, rec.num_identities) == (len(labels), 250)
    np.testing.assert_array_equal(rec.labels, labels)
    for i in (0, 2047, 4096, len(labels) - 1):
        assert rec.read(i) == (b"image %d" % (i + 1), labels[i])


def swap_two(ranges):
    ranges[[3, 200]] = ranges[[200, 3]]


def shift_one(ranges):
    ranges[200, 0] += 30


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (swap_two, r"record 5004: expected the range \[61, 81\] "),
        (shift_one, r"record 5201: expected the range "),
    ],
)
def test_rounded_ranges_must_match_own_labels(change, fault, float16_labels, tmp_path):
    write_rounded(tmp_path, [20] * 250, change=change)
    with pytest.raises(ValueError, match=fault):
        InsightFaceRec(tmp_path)


def test_own_labels_that_do_not_match_the_rounded_ranges_are_errors(float16_labels, tmp_path):
    own = np.repeat(np.arange(250), 20)
    own[4010] = 7  # among the images of another identity
    write_rounded(tmp_path, [20] * 250, own)
    with pytest.raises(ValueError, match=r"record 5008: .*\[4011, 4012\]"):
        InsightFaceRec(tmp_path)
    own[4010] = 300  # not an identity, at a position that rounding hides
    write_rounded(tmp_path, [20] * 250, own)
    with pytest.raises(ValueError, match=r"record 4011: .* 300"):
        InsightFaceRec(tmp_path)


def test_images_of_an_identity_must_be_consecutive():
    _check_ranges("a.rec", np.array([0, 0, 1]), np.array([[1.0, 3.0], [3.0, 4.0]]))
    with pytest.raises(ValueError, match=r"a.rec: .* 3 runs"):
        _check_ranges("a.rec", np.array([1, 0, 0, 1]), np.array([[2.0, 4.0], [4.0, 5.0]]))


def test_rounded_record_0_needs_the_whole_index(float16_labels, tmp_path):
    write_rounded(tmp_path, [20] * 250)
    lines = (tmp_path / "train.idx").read_text().splitlines(keepends=True)
    for wrong in (
        lines[:3] + lines[5:],
        lines[:-1] + ["9999\t0\n"],
        [lines[0], lines[2], lines[1], *lines[3:]],
    ):
        (tmp_path / "train.idx").write_text("".join(wrong))
        with pytest.raises(ValueError, match=r"record 0: .* 2048 "):
            InsightFaceRec(tmp_path)


@pytest.mark.parametrize("first", [3998, 4002, 4012, np.inf, np.nan])
def test_identity_records_must_begin_where_record_0_says(first, float16_labels):
    assert _first_identity_record("a.rec", 4000.0, 5000, lambda key: key >= 4001) == 4001
    with pytest.raises(ValueError, match="record 0: "):
        _first_identity_record("a.rec", float(first), 5000, lambda key: key >= 4005)


def images_in_worker(rec):
    return [rec.read(i) for i in range(rec.num_images)], rec.labels.tolist()


def test_a_spawned_worker_reads_the_same_images():
    rec = InsightFaceRec(GOLDEN / "rec_small")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(images_in_worker, (rec,)) == images_in_worker(rec)


def test_the_fingerprint_depends_on_every_file(tmp_path):
    folder = shutil.copytree(GOLDEN / "rec_small", tmp_path / "set")
    seen = [fingerprint(SourceConfig("set", "mxrec", folder))]
    assert fingerprint(SourceConfig("set", "mxrec", folder / "train.rec")) == seen[0]

    with (folder / "train.rec").open("ab") as file:
        file.write(bytes(8))
    seen.append(fingerprint(SourceConfig("set", "mxrec", folder)))
    os.utime(folder / "train.rec", ns=(0, 1))
    seen.append(fingerprint(SourceConfig("set", "mxrec", folder)))
    (folder / "property").write_text("6,112,96")
    seen.append(fingerprint(SourceConfig("set", "mxrec", folder)))
    (folder / "property").unlink()
    seen.append(fingerprint(SourceConfig("set", "mxrec", folder)))
    index = (folder / "train.idx").read_text()
    (folder / "train.idx").write_text(index + "\n")
    seen.append(fingerprint(SourceConfig("set", "mxrec", folder)))
    assert len(set(seen)) == len(seen)
    assert all(type(one) is str for one in seen)


# Inconsistent files.


def test_a_missing_rec_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"train\.rec: "):
        InsightFaceRec(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere: "):
        InsightFaceRec(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "text", ["", "6", "6,112", "6,112,112,3", "6,112,x", "0,112,112", "6,-112,112", "6,112,1.5"]
)
def test_a_malformed_property_is_an_error(text, tmp_path):
    write_flat(tmp_path, [0])
    (tmp_path / "property").write_text(text)
    with pytest.raises(ValueError, match=f"property: .* '{text}'"):
        InsightFaceRec(tmp_path)


def test_a_property_that_disagrees_with_record_0_is_an_error(tmp_path):
    write_identities(tmp_path, [(1, 4), (4, 7)])
    (tmp_path / "property").write_text("3,112,112")
    with pytest.raises(ValueError, match=r"property: .* 2 .* 3$"):
        InsightFaceRec(tmp_path)


def test_a_property_with_too_few_identities_is_an_error(tmp_path):
    write_flat(tmp_path, [0, 3])
    (tmp_path / "property").write_text("3,112,112")
    with pytest.raises(ValueError, match=r"property: .* 4 .* 3$"):
        InsightFaceRec(tmp_path)


@pytest.mark.parametrize(
    ("ranges", "fault"),
    [
        ([(1, 4), (3, 7)], r"records 7 and 8: .*\[1, 4\) and \[3, 7\)"),
        ([(5, 7), (1, 7)], r"records 8 and 7: .*\[1, 7\) and \[5, 7\)"),
        ([(1, 4), (1, 4)], "records 7 and 8: "),
        ([(1, 4), (4, 8)], r"record 8: .*\[1, 7\), received \[4, 8\)"),
        ([(0, 4), (4, 7)], "record 7: "),
        ([(-1, 4), (4, 7)], r"record 7: .* received \[-1, 4\)"),
        ([(1, 4), (7, 4)], r"record 8: .* received \[7, 4\)"),
        ([(1, 4), (4, 6.5)], r"record 8: .* received \[4.0, 6.5\]"),
        ([(1, 4), (4, np.nan)], r"record 8: .* received \[4.0, nan\]"),
        ([(1, 4), (4, np.inf)], "record 8: .* 16777216"),
        ([(1, 4), 4], r"record 8: .* received \[4.0\]"),
        ([(1, 1), (4, 4)], r"expected at least one image, received none"),
    ],
)
def test_wrong_ranges_are_errors(ranges, fault, tmp_path):
    write_identities(tmp_path, ranges)
    with pytest.raises(ValueError, match=rf"train\.rec: {fault}"):
        InsightFaceRec(tmp_path)


@pytest.mark.parametrize(
    ("record_0", "fault"),
    [
        ([9, 7], r"record 0: .* received \(9, 7\)"),
        ([7, 7], r"record 0: .* received \(7, 7\)"),
        ([1, 9], r"record 0: .* received \(1, 9\)"),
        ([7, 11], "record 9: .* 7 to 10,"),
        ([7.5, 9], r"record 0: .*7\.5"),
        ([2.0**24, 2.0**24 + 8], "record 0: .* 16777216 .*received 9 records, 0 to 8"),
    ],
)
def test_a_wrong_record_0_is_an_error(record_0, fault, tmp_path):
    write_identities(tmp_path, [(1, 4), (4, 7)], record_0=record_0)
    with pytest.raises(ValueError, match=rf"train\.rec: {fault}"):
        InsightFaceRec(tmp_path)


def test_an_image_missing_from_the_index_is_an_error(tmp_path):
    write_identities(tmp_path, [(1, 4), (4, 7)])
    lines = (tmp_path / "train.idx").read_text().splitlines(keepends=True)
    (tmp_path / "train.idx").write_text("".join(lines[:3] + lines[4:]))
    with pytest.raises(ValueError, match=r"record 3: .* 1 to 6"):
        InsightFaceRec(tmp_path)


@pytest.mark.parametrize("label", [-1, 1.5, np.nan, np.inf, 2.0**24])
def test_a_wrong_own_label_is_an_error(label, tmp_path):
    write_flat(tmp_path, [0, label, 1])
    with pytest.raises(ValueError, match=r"train\.rec: record 1: "):
        InsightFaceRec(tmp_path)


def test_a_record_that_is_not_an_image_is_an_error(tmp_path):
    with RecordWriter(tmp_path / "train.rec") as writer:
        writer.write(0, pack_image(0, 0, b"image"))
        writer.write(1, b"too short")
    with pytest.raises(ValueError, match=r"train\.rec: record 1: .* 9 bytes"):
        InsightFaceRec(tmp_path)

    write_identities(tmp_path, [(1, 4), (4, 7)])
    reader = RecordReader(tmp_path / "train.rec")
    payloads = [reader.read(key) for key in reader.keys]
    payloads[2] = b"too short"
    with RecordWriter(tmp_path / "train.rec") as writer:
        for key, payload in enumerate(payloads):
            writer.write(key, payload)
    rec = InsightFaceRec(tmp_path)
    with pytest.raises(ValueError, match=r"train\.rec: record 2: "):
        rec.read(1)
