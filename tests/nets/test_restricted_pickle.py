"""Tests that hostile files make the reader allocate at most 4 times the file's size plus 100 MB."""

import contextlib
import pickle
import struct
import time
import tracemalloc

import numpy as np
import pytest

from dataset.pairs.safe_pickle import load_plain
from nets.importers.torch_file import TorchFile
from tests.torch_zip import a_dict, a_global, call, plain, storage, tensor, write_torch_zip

MEGABYTE = 10**6
SIZE = 20 * MEGABYTE  # bytes of the payload that a file repeats
REPETITIONS = 20


def read_verification_set(path, program):
    path.write_bytes(b"\x80\x04" + program + b".")
    return load_plain(path)


def read_torch_file(path, program):
    write_torch_zip(path, program, {"0": bytes(SIZE)})
    with TorchFile(path) as file:
        return file.contents


READERS = {"file.bin": read_verification_set, "file.pth": read_torch_file}


@contextlib.contextmanager
def limited_memory(path):
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    size = path.stat().st_size
    assert peak < 4 * size + 100 * MEGABYTE, (
        f"{peak / MEGABYTE:.0f} MB for a file of {size / MEGABYTE:.0f} MB"
    )


def binbytes(payload):
    return b"B" + struct.pack("<I", len(payload)) + payload


HUGE = {
    "LONG_BINPUT": b"Nr\xff\xff\xff\xff",
    "PUT": b"Np99999999999999999999\n",
    "BINBYTES": b"B\xff\xff\xff\xff",
    "BINBYTES8": b"\x8e" + struct.pack("<Q", 2**62),
    "BYTEARRAY8": b"\x96" + struct.pack("<Q", 2**62),
    "BINUNICODE": b"X\xff\xff\xff\xff",
    "BINUNICODE8": b"\x8d" + struct.pack("<Q", 2**62),
    "BINSTRING": b"T\xff\xff\xff\x7f",
    "LONG4": b"\x8b\xff\xff\xff\x7f",
    "FRAME": b"\x95" + struct.pack("<Q", 2**62) + b"N",
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("instruction", HUGE)
def test_huge_numbers_allocate_little(instruction, name, tmp_path):
    path = tmp_path / name
    path.write_bytes(b"")
    with limited_memory(path):
        try:
            assert READERS[name](path, HUGE[instruction]) is None
        except ValueError as error:
            assert str(path) in str(error)


def dtype(code):
    return f"cnumpy\ndtype\n(V{code}\nI00\nI01\ntR(I3\nV|\nNNNI-1\nI-1\nI0\ntb".encode()


@pytest.mark.parametrize("shape", [(10**12,), (2**62, 2**62), (SIZE, 1000), (0, 2**70)])
def test_giant_shapes_are_refused(shape, tmp_path):
    frombuffer = b"cnumpy.core.numeric\n_frombuffer\n("
    program = frombuffer + binbytes(b"") + dtype("u1") + plain(shape) + b"VC\ntR"
    strides = tuple(0 for _ in shape)
    pair_file, torch_file = tmp_path / "file.bin", tmp_path / "file.pth"
    torch_file.write_bytes(b"")
    with limited_memory(torch_file), pytest.raises(ValueError, match=r"file\.bin"):
        read_verification_set(pair_file, program)
    with limited_memory(torch_file), pytest.raises(ValueError, match=r"file\.pth"):
        contents = read_torch_file(
            torch_file, a_dict({"x": tensor("ByteStorage", "0", SIZE, 0, shape, strides)})
        )
        with TorchFile(torch_file) as file:
            file.read(contents["x"])


# The payload is at place 9 of the memo.
REPEATED = {
    "arrays": b"cnumpy.core.numeric\n_frombuffer\n(h\x09" + dtype("u1") + plain((SIZE,)) + b"VC\ntR",
    "big-endian arrays": b"cnumpy.core.numeric\n_frombuffer\n(h\x09"
    + dtype("u4").replace(b"V|", b"V>")
    + plain((SIZE // 4,))
    + b"VC\ntR",
    "arrays of Python 2": b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nI0\nVb\ntR(I1\n"
    + plain((SIZE,))
    + dtype("u1")
    + b"I00\nh\x09tb",
}


@pytest.mark.parametrize("kind", REPEATED)
def test_arrays_that_repeat_a_buffer_share_it(kind, tmp_path):
    payload = binbytes(bytes(SIZE)) + b"q\x09"
    path = tmp_path / "file.bin"
    path.write_bytes(b"\x80\x04(" + payload + REPEATED[kind] * REPETITIONS + b"l.")
    with limited_memory(path):
        payload, *arrays = load_plain(path)
    assert len(arrays) == REPETITIONS
    assert all(np.shares_memory(array, np.frombuffer(payload, np.uint8)) for array in arrays)


def test_repeated_encodings_of_a_text_take_little_memory(tmp_path):
    encode = b"c_codecs\nencode\nh\x00\x8c\x06latin1\x86R"
    text = b"X" + struct.pack("<I", SIZE) + b"a" * SIZE
    path = tmp_path / "file.bin"
    path.write_bytes(b"\x80\x04(" + text + b"q\x00" + encode * REPETITIONS + b"l.")
    with limited_memory(path):
        received = load_plain(path)
    assert received[1] == received[-1] == b"a" * SIZE


def test_tensors_that_repeat_a_storage_take_little_memory(tmp_path):
    shared = tensor("FloatStorage", "0", SIZE // 4, 0, (SIZE // 4,), (1,))
    path = tmp_path / "file.pth"
    write_torch_zip(path, a_dict({str(i): shared for i in range(REPETITIONS)}), {"0": bytes(SIZE)})
    with limited_memory(path), TorchFile(path) as file:
        arrays = [file.read(value) for value in file.contents.values()]
    assert len(arrays) == REPETITIONS


def test_float16_tensors_that_repeat_a_storage_take_little_memory(tmp_path):
    shared = tensor("HalfStorage", "0", SIZE // 2, 0, (SIZE // 2,), (1,))
    path = tmp_path / "file.pth"
    write_torch_zip(path, a_dict({str(i): shared for i in range(REPETITIONS)}), {"0": bytes(SIZE)})
    with limited_memory(path), TorchFile(path) as file:
        arrays = [file.read(value) for value in file.contents.values()]
    assert len(arrays) == REPETITIONS and arrays[0].dtype == np.float32


COUNT = 3 * MEGABYTE
MANY = {
    "empty lists": b"(" + b"]" * COUNT + b"t",
    "places in the memo": b"]" + b"\x94" * COUNT,
    "marks": b"(" * COUNT,
    "the same list": b"]q\x00(" + b"h\x00" * COUNT + b"t",
    "empty bytes": b"(" + b"C\x00" * COUNT + b"t",
    # Python stores four bytes for each letter of this text.
    "a wide text": b"X" + struct.pack("<I", 8 * SIZE + 4) + "\U0001f600".encode() + b"a" * 8 * SIZE,
}


# Both readers share the limit, and each file takes seconds.
@pytest.mark.parametrize(
    ("kind", "name"), [*((kind, "file.bin") for kind in MANY), ("empty lists", "file.pth")]
)
def test_many_small_objects_are_refused(kind, name, tmp_path):
    path = tmp_path / name
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="more memory than the file"), limited_memory(path):
        READERS[name](path, MANY[kind])


def nested_tuple():
    """Returns a small program whose tuple has a `repr` of 6 MB. With 40 more levels it would never end."""
    value = 1
    for _ in range(20):
        value = (value, value)
    return pickle.dumps(value, 2)[2:-1]


def test_nested_tuples_are_not_turned_into_text(tmp_path):
    path = tmp_path / "file.pth"
    path.write_bytes(b"")
    rebuild = a_global("torch._utils", "_rebuild_tensor_v2")
    place = [
        storage("ByteStorage", "0", SIZE),
        plain(0),
        nested_tuple(),
        plain((1,)),
        plain(False),
        plain({}),
    ]
    with limited_memory(path), pytest.raises(ValueError, match="received shape") as error:
        read_torch_file(path, call(rebuild, *place))
    assert len(str(error.value)) < 500
    frombuffer = b"cnumpy.core.numeric\n_frombuffer\n("
    with limited_memory(path), pytest.raises(ValueError, match="received") as error:
        program = frombuffer + binbytes(b"") + dtype("u1") + nested_tuple() + b"VC\ntR"
        read_verification_set(tmp_path / "file.bin", program)
    assert len(str(error.value)) < 500


def test_shapes_of_giant_numbers_take_no_time(tmp_path):
    number = b"\x8b" + struct.pack("<i", 4000) + b"\x7f" * 4000 + b"q\x01"
    shape = b"(" + number + b"h\x01" * 4000 + b"t"
    frombuffer = b"cnumpy.core.numeric\n_frombuffer\n("
    start = time.process_time()
    with pytest.raises(ValueError, match="shape"):
        read_verification_set(
            tmp_path / "file.bin", frombuffer + binbytes(b"") + dtype("u1") + shape + b"VC\ntR"
        )
    rebuild = a_global("torch._utils", "_rebuild_tensor_v2")
    place = [storage("ByteStorage", "0", SIZE), plain(0), shape, shape, plain(False), plain({})]
    with pytest.raises(ValueError, match="shape"):
        read_torch_file(tmp_path / "file.pth", call(rebuild, *place))
    assert time.process_time() - start < 5


def test_keys_that_collide_in_a_dict_are_refused(tmp_path):
    """A dict takes the square of the time for numbers that differ by 2^61 - 1."""
    memo = b"".join(b"p%d\n" % (place * (2**61 - 1)) for place in range(1, 3))
    keys = b"".join(plain(place * (2**61 - 1)) + b"N" for place in range(1, 3))
    with pytest.raises(ValueError, match=r"file\.bin"):
        read_verification_set(tmp_path / "file.bin", b"N" + memo)
    with pytest.raises(ValueError, match=r"file\.pth"):
        read_torch_file(tmp_path / "file.pth", b"}(" + keys + b"u")


def test_dicts_are_read_only_where_they_are_allowed(tmp_path):
    program = pickle.dumps({"a": {1: [2]}}, 2)[2:-1]
    assert read_torch_file(tmp_path / "file.pth", program) == {"a": {1: [2]}}
    with pytest.raises(ValueError, match="EMPTY_DICT"):
        read_verification_set(tmp_path / "file.bin", program)
