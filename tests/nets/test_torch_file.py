import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from nets.importers.torch_file import TorchFile
from tests.torch_zip import a_dict, a_global, call, plain, storage, tensor, write_torch_zip

GOLDEN = Path(__file__).parents[1] / "golden" / "torch"
NUMBERS = np.arange(6, dtype="<f4")
REBUILD = a_global("torch._utils", "_rebuild_tensor_v2")
ORDERED_DICT = a_global("collections", "OrderedDict")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "tensors.pth"


def read(path):
    with TorchFile(path) as file:
        return {name: file.read(value) for name, value in file.contents.items()}


def test_a_file_that_pytorch_wrote_is_read():
    expected = np.load(GOLDEN / "tensors.npz")
    received = read(GOLDEN / "tensors.pth")
    assert list(received) == expected.files
    for name, array in received.items():
        assert array.dtype == expected[name].dtype and array.dtype.isnative, name
        np.testing.assert_array_equal(array, expected[name], err_msg=name)


@pytest.mark.parametrize("byte_order", ["little", "big", None])
@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *(("DoubleStorage", "f8"), ("FloatStorage", "f4"), ("HalfStorage", "f2"), ("LongStorage", "i8")),
        *(("IntStorage", "i4"), ("ShortStorage", "i2"), ("CharStorage", "i1"), ("ByteStorage", "u1")),
        ("BoolStorage", "?"),
    ],
)
def test_every_dtype_and_byte_order_is_read(path, name, dtype, byte_order):
    numbers = np.array([[0, 1, 2], [100, 5, 1]]).astype(dtype)
    stored = numbers.astype(numbers.dtype.newbyteorder(byte_order or "little")).tobytes()
    program = a_dict({"x": tensor(name)})
    write_torch_zip(path, program, {"0": stored}, byte_order and byte_order.encode())
    received = read(path)["x"]
    np.testing.assert_array_equal(received, numbers)
    assert received.dtype == (np.float32 if dtype == "f2" else numbers.dtype)


@pytest.mark.parametrize("byte_order", ["little", "big"])
def test_bfloat16_is_the_upper_half_of_float32(path, byte_order):
    halves = np.array([0x3F80, 0xC049, 0x7F80]).astype(np.dtype("u2").newbyteorder(byte_order))
    program = a_dict({"x": tensor("BFloat16Storage", size=3, shape=(3,), strides=(1,))})
    write_torch_zip(path, program, {"0": halves.tobytes()}, byte_order.encode())
    received = read(path)["x"]
    np.testing.assert_array_equal(received, np.array([1.0, -3.140625, np.inf], np.float32))
    assert received.dtype == np.float32


def test_views_of_one_storage_are_read(path):
    program = a_dict(
        {
            "transposed": tensor(shape=(3, 2), strides=(1, 3)),
            "second_row": tensor(offset=3, shape=(3,), strides=(1,)),
            "every_second": tensor(offset=1, shape=(3,), strides=(2,)),
            "one": tensor(offset=5, shape=(), strides=()),
            # The stride along an axis of length 1 has no effect.
            "one_row": tensor(offset=3, shape=(1, 3), strides=(1000, 1)),
        }
    )
    write_torch_zip(path, program, {"0": NUMBERS.tobytes()})
    rows = NUMBERS.reshape(2, 3)
    received = read(path)
    np.testing.assert_array_equal(received["transposed"], rows.T)
    np.testing.assert_array_equal(received["second_row"], rows[1])
    np.testing.assert_array_equal(received["every_second"], [1, 3, 5])
    assert received["one"] == 5
    np.testing.assert_array_equal(received["one_row"], rows[1:])


def test_plain_contents_of_later_protocols_are_read(path):
    contents = {"epoch": 20, "lr": 0.1, "names": ["a", "b"], "flags": (True, None), 3: {"big": 2**70}}
    for protocol in (2, 4, 5):
        write_torch_zip(path, pickle.dumps(contents, protocol)[2:-1], {})
        with TorchFile(path) as file:
            assert file.contents == contents
    # Protocol 4 names a global in this way.
    stack_global = plain("collections") + plain("OrderedDict") + b"\x93"
    write_torch_zip(path, call(stack_global), {})
    with TorchFile(path) as file:
        assert file.contents == {}


def test_attributes_of_a_state_dict_are_left_out(path):
    program = call(ORDERED_DICT) + a_dict({"_metadata": plain({}), "items": plain(1)}) + b"b"
    write_torch_zip(path, program, {})
    with TorchFile(path) as file:
        assert file.contents == {}


class Attack:
    """Runs a command when it is unpickled."""

    def __init__(self, mark):
        self._mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self._mark}",)


ATTACKS = {
    "a global outside of the list": call(a_global("torch.storage", "_load_from_bytes"), plain("x")),
    "another rebuilder": call(a_global("torch._utils", "_rebuild_sparse_tensor"), plain("x")),
    "a dotted name": call(plain("torch._utils") + plain("os.system") + b"\x93", plain("true")),
    "a module within the list": call(plain("torch._utils torch._utils") + plain("os") + b"\x93"),
    "a global that is no string": plain(1) + plain("system") + b"\x93",
    "INST": b"(" + plain("true") + b"ios\nsystem\n",
    "OBJ": b"(" + ORDERED_DICT + plain("true") + b"o",
    "NEWOBJ": ORDERED_DICT + b")\x81",
    "EXT1": b"\x82\x01",
    "PERSID": b"P0\n",
    "a state of a tensor": tensor() + a_dict({"shape": plain(1)}) + b"b",
    "a state of a function": REBUILD + plain({"__code__": 1}) + b"b",
    "a state of a list": b"]" + plain({}) + b"b",
    "an item of a function": ORDERED_DICT + plain("x") + plain(1) + b"s",
    "an append to a dict": b"}" + plain(1) + b"a",
    "a call of a storage": call(storage("FloatStorage", "0", 6)),
    "a call of a dict": call(b"}"),
    "a call of a dtype": call(a_global("torch", "FloatStorage")),
    "a dict of something": call(ORDERED_DICT, plain([["a", 1]])),
    "a parameter of something": call(a_global("torch._utils", "_rebuild_parameter"), plain(1)),
    "a tensor of no storage": call(REBUILD, plain(0), plain(0), plain((1,)), plain((1,))),
    "a tensor of a dtype": call(REBUILD, a_global("torch", "FloatStorage"), *map(plain, (0, (1,), (1,)))),
    "a key that is no name": b"}" + plain((1, 2)) + plain(1) + b"s",
    "a storage of a function": b"(" + plain("storage") + ORDERED_DICT + plain("0") * 2 + plain(6) + b"tQ",
    "a storage of another kind": b"(" + plain("module") + plain("0") + b"tQ",
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_refuses_everything_but_plain_tensors(path, attack):
    write_torch_zip(path, ATTACKS[attack], {"0": NUMBERS.tobytes()})
    with pytest.raises(ValueError, match="expected only") as error:
        TorchFile(path)
    assert str(path) in str(error.value)


def test_code_in_the_file_does_not_run(path, tmp_path):
    mark = tmp_path / "was_run"
    for protocol in (2, 4):
        program = pickle.dumps({"x": Attack(mark)}, protocol)
        write_torch_zip(path, program[2:-1], {})
        with pytest.raises(ValueError, match=r"posix\.system"):
            TorchFile(path)
        assert not mark.exists()
    pickle.loads(program)
    assert mark.exists(), "the attack does nothing"


@pytest.mark.parametrize(
    "place",
    [
        {"offset": 1},
        {"offset": 7, "shape": (), "strides": ()},
        {"strides": (4, 1)},
        {"shape": (2, 4)},
        {"offset": -1},
        {"strides": (-3, 1)},
        {"shape": (-2, 3)},
        {"shape": (2, 3, 1)},
        {"shape": (10**12,), "strides": (0,)},  # of six numbers
        {"shape": (2.0, 3)},
        {"offset": "0"},
        {"offset": 2**64},
        {"shape": (0, 2**70), "strides": (2**70, 1)},
    ],
)
def test_tensors_outside_of_their_storage_are_refused(path, place):
    write_torch_zip(path, a_dict({"x": tensor(**place)}), {"0": NUMBERS.tobytes()})
    with pytest.raises(ValueError, match=f"{path}: "):
        read(path)


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (tensor(size=7), "'0': .* 28 .* 24"),
        (tensor("DoubleStorage"), "'0': .* 48 .* 24"),
        (tensor(key="1"), "'1': .* 24 "),
        (tensor(key="../data.pkl"), "data.pkl"),
        (b"", "damaged one"),
        (b"h\x07", "damaged one"),
        (b"R", "damaged one"),
        (b"u", "damaged one"),
        (plain(1) + plain(2), "damaged one"),
        (b"X\xff\xff\xff\x7fabc", "expected"),
        (b"\xff", "damaged one: .*xff"),
    ],
)
def test_damaged_pickles_are_refused(path, program, message):
    write_torch_zip(path, program, {"0": NUMBERS.tobytes()})
    with pytest.raises(ValueError, match=message) as error:
        TorchFile(path)
    assert str(path) in str(error.value)


def test_bytes_that_do_not_match_their_checksum_are_refused(path):
    write_torch_zip(path, a_dict({"x": tensor()}), {"0": NUMBERS.tobytes()})
    data = path.read_bytes()
    path.write_bytes(data.replace(NUMBERS.tobytes(), NUMBERS[::-1].tobytes()))
    with pytest.raises(ValueError, match=f"{path}: storage 0: "):
        read(path)
    path.write_bytes(data.replace(b"_rebuild_tensor_v2", b"_rebuild_tensor_v3"))
    with pytest.raises(ValueError, match=f"{path}: "):
        TorchFile(path)


def test_files_of_other_formats_are_refused(path, tmp_path):
    with pytest.raises(FileNotFoundError, match=str(path)):
        TorchFile(path)
    # The format of torch.save before 1.6, which newer versions write on request.
    path.write_bytes(pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2))
    with pytest.raises(ValueError, match=r"torch\.save\(torch\.load\(old"):
        TorchFile(path)
    for data in (b"", b"\x93NUMPY", (GOLDEN / "tensors.pth").read_bytes()[:-100]):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=f"{path}: "):
            TorchFile(path)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("model.json", "{}")
    with pytest.raises(ValueError, match=r"data\.pkl.* 0"):
        TorchFile(path)
    with pytest.raises(ValueError, match="compress"):
        write_torch_zip(path, tensor(), {"0": bytes(10**6)}, compression=zipfile.ZIP_DEFLATED)
        TorchFile(path)
    write_torch_zip(path, plain(1), {}, b"middle")
    with pytest.raises(ValueError, match=r"byteorder: .*middle"):
        TorchFile(path)


def test_a_newer_version_of_the_zip_format_is_refused(path):
    write_torch_zip(path, plain(1), {})
    content = path.read_bytes()
    start = content.index(b"PK\x01\x02") + 6  # the version that is needed to read the entry
    path.write_bytes(content[:start] + b"\xff\x00" + content[start + 2 :])
    with pytest.raises(ValueError, match=f"{path}: "):
        TorchFile(path)


def test_a_very_long_list_of_entries_is_refused(path):
    """The list of entries takes ten times as much memory as in the file."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", b"\x80\x02N.")
        for number in range(50_000):
            file.writestr(f"archive/data/{number:060}", b"")
    with pytest.raises(ValueError, match="its list of entries takes"):
        TorchFile(path)


def test_a_storage_of_two_types_is_refused(path):
    program = a_dict({"a": tensor("FloatStorage"), "b": tensor("IntStorage")})
    write_torch_zip(path, program, {"0": NUMBERS.tobytes()})
    with pytest.raises(ValueError, match="'0': expected one type"):
        TorchFile(path)


def test_shapes_of_booleans_are_refused(path):
    write_torch_zip(path, a_dict({"x": tensor(shape=(True, 3), strides=(3, 1))}), {"0": NUMBERS.tobytes()})
    with pytest.raises(ValueError, match="received shape"):
        TorchFile(path)


def test_entries_that_overlap_are_refused(path):
    # A zip can point to the same bytes many times.
    write_torch_zip(path, plain(1), {str(key): bytes(1000) for key in range(3)})
    with zipfile.ZipFile(path, "a") as file:
        file.filelist += [file.getinfo("archive/data/0")] * 10
        file.writestr("archive/version", b"3")
    with pytest.raises(ValueError, match=f"{path}: "):
        TorchFile(path)
