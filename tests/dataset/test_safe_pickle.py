import contextlib
import copyreg
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

from dataset.pairs.safe_pickle import load_plain


@pytest.fixture
def load(tmp_path):
    def load(content):
        path = tmp_path / "file.pkl"
        path.write_bytes(content)
        return load_plain(path)

    return load


def assert_same(received, expected):
    assert type(received) is type(expected)
    if isinstance(expected, list | tuple):
        assert len(received) == len(expected)
        for one, other in zip(received, expected, strict=True):
            assert_same(one, other)
    elif isinstance(expected, np.ndarray | np.generic):
        assert received.dtype == expected.dtype
        np.testing.assert_array_equal(received, expected)
    else:
        assert received == expected


SHARED = np.arange(6, dtype=np.uint8).reshape(1, 2, 3)
PLAIN = [
    (None, True, False, 0, 255, 65535, -1, 2**31, -(2**70), 1 << 3000, 1.5, -1e300),
    (b"", b"\x00\xff\n'\\", b"x" * 300, "", "text\n\\u00e9", "\u00e9\u4e2d\U0001f600", "y" * 300),
    ([], (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), [[[]]], list(range(2000))),
    [SHARED, SHARED, SHARED.copy()],
    [np.arange(12).reshape(3, 4).astype(kind) for kind in ("?", "b", "u2", ">i4", "<i8", "e", "f", ">d")],
    [np.asfortranarray(SHARED[0]), SHARED[..., ::-1], np.array(7), np.zeros((0, 3), np.float32)],
    [np.bool_(True), np.uint8(200), np.float32(0.25), np.int64(-5), np.dtype(np.uint8)],
]


class TestPlain:
    @pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
    def test_all_protocols_are_read(self, load, protocol):
        assert_same(load(pickle.dumps(PLAIN, protocol)), PLAIN)

    @pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
    def test_names_of_numpy_1_are_read(self, load, protocol):
        # Protocols from 4 on store the length of a name before the name.
        content = pickle.dumps([SHARED, np.float32(1)], protocol, fix_imports=False)
        for name in (b"numpy.core.multiarray", b"numpy.core.numeric"):
            new = name.replace(b"core", b"_core")
            content = content.replace(bytes([len(new)]) + new, bytes([len(name)]) + name).replace(new, name)
        frame = content.find(pickle.FRAME)
        if frame == 2:  # The length of the frame is wrong now, but this reader ignores it.
            content = content[:2] + content[11:]
        assert_same(load(content), [SHARED, np.float32(1)])

    def test_arrays_cannot_be_written(self, load):
        assert not load(pickle.dumps(SHARED)).flags.writeable

    def test_a_bytearray_is_read(self, load):
        assert_same(load(pickle.dumps(bytearray(b"\x00\xff"), 5)), b"\x00\xff")

    def test_strings_of_python_2_are_read(self, load):
        assert_same(load(b"(S'\\xff\\n\\'a'\np0\nS\"it's\"\ng0\nI01\nI7\nL8L\nF0.5\nV\\u00e9\ntp1\n."), (
            b"\xff\n'a", b"it's", b"\xff\n'a", True, 7, 8, 0.5, "\u00e9"
        ))  # fmt: skip
        assert_same(load(b"\x80\x02U\x02\xff\x00T\x03\x00\x00\x00abc\x86q\x01."), (b"\xff\x00", b"abc"))

    def test_a_list_may_contain_itself(self, load):
        loop = []
        loop.append(loop)
        received = load(pickle.dumps(loop))
        assert received[0] is received

    def test_deeply_nested_lists_are_read(self, load):
        depth = 200_000
        assert len(load(b"]" * depth + b"a" * (depth - 1) + b".")) == 1


class Reduced:
    """Pickles as a call of any function."""

    def __init__(self, *reduced):
        self.reduced = reduced

    def __reduce__(self):
        return self.reduced


EXTENSION = 0x7EAD


def attacks(target):
    """Returns pickles that write the file `target` in different ways when `pickle` opens them."""
    command = f"echo > {target}"
    program = f"open({str(target)!r}, 'w').close()"
    system = Reduced(os.system, (command,))
    command_line, program_line = b"V" + command.encode() + b"\n", b"V" + program.encode() + b"\n"
    command_text = b"\x8c" + bytes([len(command)]) + command.encode()
    program_text = b"\x8c" + bytes([len(program)]) + program.encode()
    return {
        **{f"reduce, protocol {protocol}": pickle.dumps(system, protocol) for protocol in range(6)},
        "global": b"cos\nsystem\n(" + command_line + b"tR.",
        "stack global": b"\x80\x04\x8c\x02os\x8c\x06system\x93" + command_text + b"\x85R.",
        "dotted name": b"\x80\x04\x8c\x07pathlib\x8c\x09os.system\x93" + command_text + b"\x85R.",
        "by way of NumPy": b"\x80\x04\x8c\x0dnumpy.ma.core\x8c\x0dbuiltins.eval\x93"
        + program_text
        + b"\x85R.",
        "eval": pickle.dumps(Reduced(eval, (program,))),
        "exec of Python 2": b"c__builtin__\nexec\n(" + program_line + b"tR.",
        "chain of getattr": b"c__builtin__\ngetattr\n(c__builtin__\n__import__\n(Vos\ntRVsystem\ntR("
        + command_line
        + b"tR.",
        "INST": b"(" + command_line + b"ios\nsystem\n.",
        "OBJ": b"(cos\nsystem\n" + command_line + b"o.",
        # bytes(map(eval, [program])) runs the program using only constructors.
        "NEWOBJ": b"\x80\x02c__builtin__\nbytes\n(c__builtin__\nmap\n(c__builtin__\neval\n]"
        + program_line
        + b"at\x81t\x81.",
        "copyreg": b"ccopy_reg\n__newobj__\n(c__builtin__\nbytes\nccopy_reg\n__newobj__\n("
        + b"c__builtin__\nmap\nc__builtin__\neval\n]"
        + program_line
        + b"atRtR.",
        "BUILD of __setstate__": b"ctypes\nSimpleNamespace\n)R}V__setstate__\ncos\nsystem\nsb"
        + command_line
        + b"b.",
        "extension code": b"\x80\x02\x84" + struct.pack("<i", EXTENSION) + b"(" + command_line + b"tR.",
        "NumPy function": pickle.dumps(Reduced(np.savetxt, (str(target), [1]))),
        "in a list": pickle.dumps([1, [system]]),
        "in a dict": pickle.dumps({"a": system}),
        "in an array of objects, protocol 2": pickle.dumps(np.array([system]), 2),
        "in an array of objects, protocol 5": pickle.dumps(np.array([system]), 5),
        "after good data": pickle.dumps([PLAIN, system]),
    }


@pytest.fixture
def extension():
    copyreg.add_extension("os", "system", EXTENSION)
    yield
    copyreg.remove_extension("os", "system", EXTENSION)


@pytest.mark.usefixtures("extension")
@pytest.mark.parametrize("name", attacks(Path()))
class TestAttacks:
    def test_refused(self, load, tmp_path, name):
        target = tmp_path / "target"
        with pytest.raises(
            ValueError, match=r"would run code|expected only lists|received dtype 'O8'"
        ) as error:
            load(attacks(target)[name])
        assert str(tmp_path / "file.pkl") in str(error.value)
        assert not target.exists()

    def test_the_standard_unpickler_runs_the_attack(self, tmp_path, name):
        target = tmp_path / "target"
        with contextlib.suppress(Exception):
            pickle.loads(attacks(target)[name])
        assert target.exists()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("numpy", "load"),
        ("numpy", "memmap"),
        ("numpy", "ndarray.tofile"),
        ("numpy.core.multiarray", "fromfile"),
        ("numpy.core.multiarray", "_reconstruct.__globals__"),
        ("numpy._core.numeric", "fromfunction"),
        ("numpy.core", "multiarray._reconstruct"),
        ("_codecs", "lookup"),
        ("__builtin__", "bytes.fromhex"),
        ("__builtin__", "getattr"),
        ("copy_reg", "_reconstructor"),
        ("dataset.pairs.safe_pickle", "_call"),
    ],
)
def test_globals_are_named_in_the_refusal(load, module, name):
    texts = b"".join(b"\x8c" + bytes([len(text)]) + text.encode() for text in (module, name))
    for content in (f"c{module}\n{name}\n.".encode(), f"(i{module}\n{name}\n.".encode(), texts + b"\x93."):
        with pytest.raises(ValueError, match=f"would run code when opened: it asks for {module}.{name};"):
            load(content)


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"}.", "EMPTY_DICT"),
        (b"(d.", "DICT"),
        (b"\x8f.", "EMPTY_SET"),
        (b"(\x91.", "FROZENSET"),
        (b"Pname\n.", "PERSID"),
        (b"NQ.", "BINPERSID"),
        (b"\x82\x01.", "EXT1"),
        (b"\x97.", "NEXT_BUFFER"),
        (b"N\x98.", "READONLY_BUFFER"),
        (b"N)\x81.", "NEWOBJ"),
        (b"N)N\x92.", "NEWOBJ_EX"),
    ],
)
def test_instructions_are_named_in_the_refusal(load, content, name):
    with pytest.raises(ValueError, match=f"expected only lists.*instruction {name},"):
        load(content)


def dtype(code="u1", order="|", rest="NNN"):
    return f"cnumpy\ndtype\n(V{code}\nI00\nI01\ntR(I3\nV{order}\n{rest}I-1\nI-1\nI0\ntb"


UINT8 = dtype()
EMPTY_ARRAY = "cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntVb\ntR"


def array(shape="(I3\nt", dtype=UINT8, data="S'abc'\n"):
    return f"{EMPTY_ARRAY}(I1\n{shape}{dtype}I00\n{data}tb"


class TestStandIns:
    """Tests of pickles that misuse the few accepted names."""

    def test_the_hand_written_pickle_is_valid(self, load):
        assert_same(load(f"{array()}.".encode()), np.frombuffer(b"abc", np.uint8))

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (dtype("O"), "dtype 'O'"),
            (dtype("V8"), "dtype 'V8'"),
            (dtype("u1,O"), "dtype 'u1,O'"),
            (dtype("u1", "O,"), "byte order 'O,' of dtype 'u1'"),
            (dtype("u1", "8"), "byte order '8' of dtype 'u1'"),
            (dtype(rest="(Va\ntNN"), "state of its own"),
            (array(shape="(I4\nt"), r"shape \(4,\), received 3 bytes"),
            (array(shape="(I-1\nI-3\nt"), "whole numbers"),
            (array(shape="((I3\ntt"), "whole numbers"),
            (array(shape="(I0\nL1000000000000000000000000L\nt", data="S''\n"), "not a pickle, or a damaged"),
            (array(shape="(" + 99 * "I1\n" + "t", data="S'a'\n"), "not a pickle, or a damaged"),
            (array(dtype=dtype("u4")), "array of uint32"),
            (array(data="](I1\nI2\nI3\ne"), "not stored as numbers"),
            (array(dtype="cnumpy\ndtype\n"), "not stored as numbers"),
            (array(dtype="Vu1\n"), "not stored as numbers"),
            (array() + "(NI1\ntb", "state of its own"),
            ("](NI1\ntb", "state of its own"),
            ("cnumpy\nndarray\n(NI1\ntb", "state of its own"),
            ("cnumpy\nndarray\n((I3\nttR", "unknown way"),
            ("cnumpy\ndtype\n(VO\ntR", "unknown way"),
            ("Vos.system\n(Vid\ntR", "a call of something other"),
            ("NNa", "an item of NoneType"),
            ("]]\x93", "a global whose name is not a string"),
            (array() + "(tR", "a call of something other"),
            ("c_codecs\nencode\n(Vabc\nVutf-16\ntR", "unknown way"),
            ("c__builtin__\nbytes\n(I1000000000000\ntR", "unknown way"),
            ("cnumpy\nndarray\n", "a function, a type or an array without its contents"),
            (f"]{EMPTY_ARRAY}a", "a function, a type or an array without its contents"),
        ],
    )
    def test_refused(self, load, content, message):
        with pytest.raises(ValueError, match=message):
            load(f"{content}.".encode("latin-1"))

    @pytest.mark.parametrize("kind", [object, "V4", "U4", "S4", "M8[s]", "c8", [("a", "u1"), ("b", "f4")]])
    @pytest.mark.parametrize("protocol", [2, 5])
    def test_arrays_that_do_not_hold_numbers_are_refused(self, load, kind, protocol):
        with pytest.raises(ValueError, match="expected "):
            load(pickle.dumps(np.zeros(3, kind), protocol))


class TestDamaged:
    @pytest.mark.parametrize("protocol", [0, 2, 4])
    def test_a_cut_off_file_is_an_error(self, load, protocol):
        content = pickle.dumps([SHARED, "text", b"bytes", 2**40, 1.5, (True, None)], protocol)
        for length in range(len(content)):
            with pytest.raises(ValueError, match=r"not a pickle, or a damaged one|an empty file"):
                load(content[:length])

    @pytest.mark.parametrize(
        "content",
        [
            b"<!DOCTYPE html>",
            b"\xff\xd8\xff\xe0",
            b"\x80\x06N.",
            b".",
            b"]e.",
            b"Na.",
            b"h\x05.",
            b"\x86.",
            b"Sunquoted\n.",
            b"S'a\n.",
            b"Ione\n.",
            b"X\x01\x00\x00\x00\xff.",
            b"T\xff\xff\xff\xff.",
            b"\x8e" + struct.pack("<Q", 2**62) + b".",
            b"\x96" + struct.pack("<Q", 2**64 - 1) + b".",
        ],
    )
    def test_other_files_are_errors(self, load, content):
        with pytest.raises(ValueError, match=r"file\.pkl: not a pickle, or a damaged one: "):
            load(content)

    @pytest.mark.parametrize("start", [b"F", b"S"])
    def test_errors_are_short(self, load, start):
        with pytest.raises(ValueError, match=r"file\.pkl: not a pickle") as error:
            load(start + b"x" * 10**5 + b"\n.")
        assert len(str(error.value)) < 500

    def test_large_numbers_cost_no_memory(self, load):
        assert load(b"Nr\xff\xff\xff\x7f.") is None

    @pytest.mark.parametrize("protocol", [0, 2, 4, 5])
    def test_any_change_of_bytes_gives_a_value_or_a_clear_error(self, load, protocol):
        rng = np.random.default_rng(protocol)
        content = pickle.dumps([SHARED, np.float32(1), "text", b"bytes", -(2**40), (True, 0.5)], protocol)
        for _ in range(400):
            changed = np.frombuffer(content, np.uint8).copy()
            places = rng.integers(0, changed.size, rng.integers(1, 4))
            changed[places] = rng.integers(0, 256, places.size)
            with contextlib.suppress(ValueError):
                load(changed.tobytes())

    def test_a_missing_file_is_an_error(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"file\.pkl"):
            load_plain(tmp_path / "file.pkl")
