"""Tests RecordIO with files that MXNet wrote, an independent reader, and broken files."""

import hashlib
import json
import multiprocessing
import pickle
import struct
import sys
from pathlib import Path

import numpy as np
import pytest

from dataset.records.recordio import (
    FIRST_LABEL_BYTES,
    MAGIC,
    RecordReader,
    RecordWriter,
    first_label,
    pack_image,
    unpack_first_label,
    unpack_image,
)
from dataset.sources.mxnet_reader import MXNetReader

GOLDEN = Path(__file__).parents[1] / "golden" / "rec"
GOLDEN_SETS = ("rec_small", "rec_vector_labels")


def write(path, payloads, keys=None):
    with RecordWriter(path) as writer:
        for key, payload in zip(keys or range(len(payloads)), payloads, strict=True):
            writer.write(key, payload)
    return path


def part(payload, cflag=0, magic=MAGIC):
    padding = bytes(-len(payload) % 4)
    return magic + struct.pack("<I", cflag << 29 | len(payload)) + payload + padding


def reference_records(data):
    """Returns all records of a file. It only looks at 4-byte words."""
    words = np.frombuffer(data, "<u4")
    records, parts, at = [], [], 0
    while at < len(words):
        length = int(words[at + 1]) % 2**29
        flag = int(words[at + 1]) // 2**29
        parts.append(data[4 * at + 8 : 4 * at + 8 + length])
        at += 2 + (length + 3) // 4
        if flag in (0, 3):
            records.append(b"\x0a\x23\xd7\xce".join(parts))
            parts = []
    return records


def stuffed_payload(rng):
    pieces = [MAGIC, MAGIC[:1], MAGIC[1:], b"x", b"four", rng.bytes(7)]
    return b"".join(pieces[i] for i in rng.integers(0, len(pieces), rng.integers(0, 25)))


# Files that MXNet wrote.


@pytest.mark.parametrize("name", GOLDEN_SETS)
@pytest.mark.parametrize("with_index", [True, False])
def test_images_of_mxnet_files_are_read(name, with_index, tmp_path):
    path = GOLDEN / name / "train.rec"
    if not with_index:
        path = tmp_path / "train.rec"
        path.write_bytes((GOLDEN / name / "train.rec").read_bytes())
    expected = json.loads((GOLDEN / name / "expected.json").read_text())
    reader = RecordReader(path)
    for key, identity, num_bytes, sha256 in expected["images"]:
        labels, image = unpack_image(reader.read(key))
        assert (len(image), hashlib.sha256(image).hexdigest()) == (num_bytes, sha256), f"record {key}"
        assert labels[0] == identity
        assert first_label(reader.read_head(key, FIRST_LABEL_BYTES)) == identity


def test_split_records_of_mxnet_files_contain_the_magic():
    reader = RecordReader(GOLDEN / "rec_small" / "train.rec")
    split = [key for key in reader.keys if MAGIC in reader.read(key)]
    assert split == [7, 19]


@pytest.mark.parametrize("name", GOLDEN_SETS)
def test_scan_finds_the_offsets_that_mxnet_wrote(name, tmp_path):
    indexed = RecordReader(GOLDEN / name / "train.rec")
    (tmp_path / "train.rec").write_bytes((GOLDEN / name / "train.rec").read_bytes())
    scanned = RecordReader(tmp_path / "train.rec")
    np.testing.assert_array_equal(scanned.keys, indexed.keys)
    np.testing.assert_array_equal(scanned.offsets, indexed.offsets)
    assert scanned.keys.dtype == indexed.keys.dtype == scanned.offsets.dtype == np.int64


@pytest.mark.parametrize("name", GOLDEN_SETS)
def test_rewritten_files_are_identical(name, tmp_path):
    reader = RecordReader(GOLDEN / name / "train.rec")
    write(tmp_path / "train.rec", [reader.read(key) for key in reader.keys], reader.keys.tolist())
    for file in ("train.rec", "train.idx"):
        assert (tmp_path / file).read_bytes() == (GOLDEN / name / file).read_bytes()


# Round trips.


@pytest.mark.parametrize("seed", range(5))
def test_payloads_full_of_magic_numbers_are_read_back(seed, tmp_path):
    rng = np.random.default_rng(seed)
    payloads = [stuffed_payload(rng) for _ in range(200)]
    path = write(tmp_path / "a.rec", payloads)
    assert reference_records(path.read_bytes()) == payloads
    reader = RecordReader(path)
    assert [reader.read(key) for key in range(len(reader.keys))] == payloads
    for num_bytes in (0, 3, 4, 9, FIRST_LABEL_BYTES):
        heads = [payload[:num_bytes] for payload in payloads]
        assert [reader.read_head(key, num_bytes) for key in range(len(reader.keys))] == heads


@pytest.mark.parametrize(
    ("payload", "parts"),
    [
        (b"", [(0, b"")]),
        (b"abc", [(0, b"abc")]),
        (MAGIC, [(1, b""), (3, b"")]),
        (2 * MAGIC, [(1, b""), (2, b""), (3, b"")]),
        (b"x" + MAGIC, [(0, b"x" + MAGIC)]),
        (b"x" + MAGIC + b"123" + MAGIC, [(1, b"x" + MAGIC + b"123"), (3, b"")]),
        (b"four" + MAGIC + b"y", [(1, b"four"), (3, b"y")]),
        (b"xy" + MAGIC + b"zz" + MAGIC + b"end", [(1, b"xy" + MAGIC + b"zz"), (3, b"end")]),
    ],
)
def test_a_record_is_split_where_it_contains_the_magic(payload, parts, tmp_path):
    path = write(tmp_path / "a.rec", [payload])
    assert path.read_bytes() == b"".join(part(body, cflag) for cflag, body in parts)
    assert RecordReader(path).read(0) == payload


@pytest.mark.parametrize("keys", [[7, 3, 900, 4], [2, 3, 900, 2**40], [-5, 4, 0, -6], [1, 2, 3, 4]])
def test_keys_can_have_any_order(keys, tmp_path):
    path = write(tmp_path / "a.rec", [b"%d" % key for key in keys], keys)
    reader = RecordReader(path)
    assert reader.keys.tolist() == keys
    assert len(reader.keys) == 4
    for key in keys:
        assert reader.read(key) == reader.read(np.int64(key)) == b"%d" % key
    for unknown in (5, -7, 2**41, 2**70):
        with pytest.raises(ValueError, match=f"a.rec: record {unknown}: "):
            reader.read(unknown)


def read_in_worker(reader):
    return [reader.read(key) for key in reader.keys]


def test_spawned_worker_reads_without_parsing_the_index(tmp_path):
    path = write(tmp_path / "a.rec", [b"one", b"two" + MAGIC], [8, 3])
    reader = RecordReader(path)
    (tmp_path / "a.idx").unlink()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(read_in_worker, (reader,)) == [b"one", b"two" + MAGIC]
    assert reader.read(3) == b"two" + MAGIC  # Pickling leaves the original open.
    assert len(pickle.dumps(reader)) < 2000


# Image records.


@pytest.mark.parametrize("labels", [3, 2.5, [7], [1, 2], np.arange(5.0)])
def test_an_image_record_is_read_back(labels):
    payload = pack_image(labels, 11, b"\xff\xd8 bytes")
    received, image = unpack_image(payload)
    np.testing.assert_array_equal(received, np.atleast_1d(labels))
    assert received.dtype == np.float32
    assert image == b"\xff\xd8 bytes"
    assert first_label(payload[:FIRST_LABEL_BYTES]) == np.ravel(labels)[0]
    assert unpack_first_label(payload) == (np.ravel(labels)[0], b"\xff\xd8 bytes")
    num_labels = 0 if np.ndim(labels) == 0 else len(labels)
    header = struct.pack("<IfQQ", num_labels, 0 if num_labels else labels, 11, 0)
    assert payload.startswith(header + np.asarray(labels, "<f4").tobytes() * (num_labels > 0))


@pytest.mark.parametrize("payload", [b"", pack_image(1, 0, b"")[:-1], pack_image([1, 2, 3], 0, b"")[:-1]])
def test_a_short_image_record_is_an_error(payload):
    with pytest.raises(ValueError, match=f"received {len(payload)} "):
        unpack_image(payload)
    with pytest.raises(ValueError, match=f"received {len(payload)} "):
        unpack_first_label(payload)


@pytest.mark.parametrize("head", [b"", pack_image(1, 0, b"")[:-1], pack_image([1], 0, b"")[:-1]])
def test_a_short_head_is_an_error(head):
    with pytest.raises(ValueError, match=f"received {len(head)} "):
        first_label(head)


# Broken files that are detected on opening.


def test_missing_files_are_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"a\.rec"):
        RecordReader(tmp_path / "a.rec")


def test_an_empty_file_is_an_error(tmp_path):
    path = write(tmp_path / "a.rec", [])
    with pytest.raises(ValueError, match=r"a\.rec: "):
        RecordReader(path)


@pytest.mark.parametrize("with_index", [True, False])
@pytest.mark.parametrize("cut", [1, 2, 4, 9])
def test_a_truncated_file_is_an_error(cut, with_index, tmp_path):
    """The file ends inside the padding, the payload or the header of the last part."""
    path = write(tmp_path / "a.rec", [b"first", b"four" + MAGIC + b"123"])
    if not with_index:
        (tmp_path / "a.idx").unlink()
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(ValueError, match=r"a\.rec: record 1, byte \d+: "):
        RecordReader(path)


def test_a_file_cut_before_its_last_record_is_an_error(tmp_path):
    path = write(tmp_path / "a.rec", [b"first", b"second"])
    path.write_bytes(path.read_bytes()[:16])
    with pytest.raises(ValueError, match=r"a\.idx: .*a\.rec, 16 bytes, received 0 to 16"):
        RecordReader(path)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", r"received no lines"),
        ("\n\n", r"received no lines"),
        ("0\t0\n1\t1x\n", r"line 2: .*1\\t1x"),
        ("0\t0\n1\n", r"line 2: .*b'1'"),
        ("0\t0\t0\n", r"line 1: .*0\\t0\\t0"),
        ("0\n16\n", r"line 1: .*b'0'"),
        ("0\t0\n\n1\t16.5\n", r"line 3: .*16\.5"),
        ("0\t0\n1\t99999999999999999999\n", r"line 2: .*9999"),
        ("\0\xff\xfe\n", r"line 1: "),
        ("version https://git-lfs.github.com/spec/v1\n", r"line 1: .*git-lfs"),
    ],
)
def test_a_malformed_index_is_an_error(text, fault, tmp_path):
    path = write(tmp_path / "a.rec", [b"first", b"second"])
    (tmp_path / "a.idx").write_text(text, encoding="latin1")
    with pytest.raises(ValueError, match=rf"a\.idx: .*{fault}"):
        RecordReader(path)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("0\t-8\n1\t16\n", "received -8 to 16"),
        ("4\t0\n4\t16\n", "received key 4 twice"),
        ("4\t0\n5\t16\n4\t16\n", "received key 4 twice"),
    ],
)
def test_an_impossible_index_is_an_error(text, fault, tmp_path):
    path = write(tmp_path / "a.rec", [b"first", b"second"])
    (tmp_path / "a.idx").write_text(text)
    with pytest.raises(ValueError, match=rf"a\.idx: .*{fault}"):
        RecordReader(path)


def test_windows_line_ends_and_a_missing_last_newline_are_accepted(tmp_path):
    path = write(tmp_path / "a.rec", [b"first", b"second"])
    (tmp_path / "a.idx").write_bytes(b"0\t0\r\n1 16")
    assert RecordReader(path).read(1) == b"second"


# Broken files that are detected on reading.


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (part(b"1234", magic=b"JUNK"), "byte 0: .* 0a23d7ce, received 4a554e4b"),
        (part(b"1234", 2), "byte 0: .* 0 or 1, received 2"),
        (part(b"1234", 3), "byte 0: .* 0 or 1, received 3"),
        (part(b"1234", 7), "byte 0: .* 0 or 1, received 7"),
        (part(b"1234", 1) + part(b"12"), "byte 12: .* 2 or 3, received 0"),
        (part(b"1234", 1) + part(b"", 1), "byte 12: .* 2 or 3, received 1"),
        (part(b"1234", 1) + part(b"", 3, b"JUNK"), "byte 12: "),
        (
            part(b"1234", 1) + MAGIC + b"\xff\xff\xff\x7f",
            "byte 20: .* received 12 ",
        ),
        (
            MAGIC + b"\xff\xff\xff\x1f",
            "byte 8: .* 536870912 .* received 12 ",
        ),
    ],
)
def test_a_broken_record_is_an_error(data, fault, tmp_path):
    """The last record is valid, so that opening succeeds."""
    path = tmp_path / "a.rec"
    path.write_bytes(data + part(b"good"))
    path.with_suffix(".idx").write_text(f"30\t0\n31\t{len(data)}\n")
    reader = RecordReader(path)
    assert reader.read(31) == b"good"
    for read in (reader.read, lambda key: reader.read_head(key, 4)):
        with pytest.raises(ValueError, match=rf"a\.rec: record 30, {fault}"):
            read(30)


def test_a_split_record_in_a_large_file_is_read(tmp_path):
    """If the flag were read as part of the length, the record would still fit into this file."""
    path = tmp_path / "a.rec"
    whole = part(b"1234", 1) + part(b"56", 3)
    path.write_bytes(whole + part(b"good"))
    with path.open("r+b") as file:
        file.truncate(2**31)
    path.with_suffix(".idx").write_text(f"0\t0\n1\t{len(whole)}\n")
    assert RecordReader(path).read(0) == b"1234" + MAGIC + b"56"


def test_a_split_record_without_its_end_is_an_error(tmp_path):
    path = tmp_path / "a.rec"
    path.write_bytes(part(b"1234", 1))
    with pytest.raises(ValueError, match="record 0, byte 12: "):
        RecordReader(path)


# Failed writes leave no half-written files.


def test_an_exception_leaves_no_files(tmp_path):
    with pytest.raises(KeyError), RecordWriter(tmp_path / "a.rec") as writer:
        writer.write(0, b"payload")
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_an_exception_keeps_existing_files(tmp_path):
    path = write(tmp_path / "a.rec", [b"old"])
    with pytest.raises(KeyError), RecordWriter(path) as writer:
        writer.write(0, b"new")
        raise KeyError
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.idx", "a.rec"]
    assert RecordReader(path).read(0) == b"old"


def test_files_appear_on_close(tmp_path):
    with RecordWriter(tmp_path / "a.rec") as writer:
        writer.write(0, b"payload")
        assert not {"a.rec", "a.idx"} & {file.name for file in tmp_path.iterdir()}
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.idx", "a.rec"]


def test_an_unwritable_name_leaves_no_files(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        RecordWriter(tmp_path / "file" / "a.rec")
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_a_key_written_twice_is_an_error(tmp_path):
    with (
        pytest.raises(ValueError, match=r"a\.rec: record 4: "),
        RecordWriter(tmp_path / "a.rec") as writer,
    ):
        writer.write(4, b"one")
        writer.write(4, b"two")
    assert list(tmp_path.iterdir()) == []


def test_a_payload_that_is_too_long_is_an_error(tmp_path):
    class Long(bytes):
        def __len__(self):
            return 2**29

    with (
        pytest.raises(ValueError, match=r"record 0: .* 536870911 .* 536870912"),
        RecordWriter(tmp_path / "a.rec") as writer,
    ):
        writer.write(0, Long())
    assert list(tmp_path.iterdir()) == []


def test_reader_without_mxnet_names_its_requirements(monkeypatch):
    monkeypatch.setitem(sys.modules, "mxnet", None)
    monkeypatch.delitem(sys.modules, "mxnet.recordio", raising=False)
    with pytest.raises(ImportError, match=r"requirements-mxnet\.txt"):
        MXNetReader(GOLDEN / "rec_small" / "train.rec")
