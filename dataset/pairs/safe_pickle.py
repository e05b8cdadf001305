"""Opens a pickle of plain data without running anything that is in it.

`pickle.load` calls whatever function a file names. Verification sets come as pickles from
download links, so this module reads the format itself: a short list of instructions, none
of which can look up, call or change an object that is not made here. All else is refused.
"""

import codecs
import dataclasses
import enum
import math
import mmap
import pickle  # for the names of its instructions only
import struct
from pathlib import Path

import numpy as np

_PLAIN = "expected only lists, tuples, strings, bytes, numbers and NumPy arrays"


def load_plain(path):
    """Reads a pickle of lists, tuples, strings, bytes, numbers, None and NumPy arrays.

    Protocols 0 to 5, of Python 2 and 3. Strings of Python 2 come back as bytes, which is
    what they are, and so do bytearrays. Arrays are read-only, of booleans, integers or
    floats; arrays of objects are refused.

    Args:
        path: str or Path.

    Returns:
        What was pickled.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file asks for anything else, or it is no pickle or a damaged one.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if not path.stat().st_size:
        raise ValueError(f"{path}: expected a pickle, received an empty file")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            return _Machine(data).run()
        except _Refused as refusal:
            raise ValueError(f"{path}: {refusal}") from None
        except ValueError as error:
            raise ValueError(f"{path}: not a pickle, or a damaged one: {error}") from None


class _Refused(ValueError):
    """A well-formed file that holds more than plain data."""


class _Global(enum.Enum):
    """What stands for a global that a file may name. None of them can be called."""

    RECONSTRUCT = enum.auto()
    NDARRAY = enum.auto()
    DTYPE = enum.auto()
    SCALAR = enum.auto()
    FROMBUFFER = enum.auto()
    ENCODE = enum.auto()
    BYTES = enum.auto()


# Complete: no other name of any module is ever accepted, let alone imported.
# NumPy 2 renamed `numpy.core` to `numpy._core`; pickles of both are about.
_GLOBALS = {
    ("numpy.core.multiarray", "_reconstruct"): _Global.RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _Global.RECONSTRUCT,
    ("numpy", "ndarray"): _Global.NDARRAY,
    ("numpy", "dtype"): _Global.DTYPE,
    ("numpy.core.multiarray", "scalar"): _Global.SCALAR,
    ("numpy._core.multiarray", "scalar"): _Global.SCALAR,
    ("numpy.core.numeric", "_frombuffer"): _Global.FROMBUFFER,
    ("numpy._core.numeric", "_frombuffer"): _Global.FROMBUFFER,
    # Python 3 writes bytes this way in the protocols 0 to 2, which have no opcode for them.
    ("_codecs", "encode"): _Global.ENCODE,
    ("__builtin__", "bytes"): _Global.BYTES,
}

# Complete too: NumPy reads far more out of a string, records of Python objects among it.
_DTYPES = frozenset(("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"))
_BYTE_ORDERS = frozenset("|<>=")


@dataclasses.dataclass
class _Unfinished:
    """An array or dtype that the file has announced, and will give the contents of.

    A pickle remembers an object before it fills it, so what it remembers is this, and
    `value` is what stands there afterwards.
    """

    kind: _Global
    code: str | None = None
    value: np.ndarray | np.dtype | None = None


_NAMES = {getattr(pickle, name): name for name in pickle.__all__ if name.isupper()}
_CONSTANTS = {
    pickle.NONE: None,
    pickle.NEWTRUE: True,
    pickle.NEWFALSE: False,
}
_NUMBERS = {
    pickle.BININT: struct.Struct("<i"),
    pickle.BININT1: struct.Struct("<B"),
    pickle.BININT2: struct.Struct("<H"),
    pickle.BINFLOAT: struct.Struct(">d"),
}
_BYTE = struct.Struct("<B")
_INT = struct.Struct("<i")
_UINT = struct.Struct("<I")
_ULONG = struct.Struct("<Q")
_BYTES = {
    pickle.SHORT_BINSTRING: _BYTE,
    pickle.BINSTRING: _INT,
    pickle.SHORT_BINBYTES: _BYTE,
    pickle.BINBYTES: _UINT,
    pickle.BINBYTES8: _ULONG,
    pickle.BYTEARRAY8: _ULONG,
}
_TEXTS = {
    pickle.SHORT_BINUNICODE: _BYTE,
    pickle.BINUNICODE: _UINT,
    pickle.BINUNICODE8: _ULONG,
}
_LONGS = {
    pickle.LONG1: _BYTE,
    pickle.LONG4: _INT,
}
_TUPLES = {
    pickle.EMPTY_TUPLE: 0,
    pickle.TUPLE1: 1,
    pickle.TUPLE2: 2,
    pickle.TUPLE3: 3,
}
_PUTS = {
    pickle.BINPUT: _BYTE,
    pickle.LONG_BINPUT: _UINT,
}
_GETS = {
    pickle.BINGET: _BYTE,
    pickle.LONG_BINGET: _UINT,
}


class _Machine:
    """The stack machine of the pickle format, cut down to instructions that make plain data."""

    def __init__(self, data):
        self._data = data
        self._stack = []
        self._outer_stacks = []
        self._memo = {}

    def run(self):
        while (opcode := self._read(1)) != pickle.STOP:
            self._step(opcode)
        (value,) = self._pop(1)
        _check_plain(value)
        return value

    def _step(self, opcode):
        if opcode in _CONSTANTS:
            self._push(_CONSTANTS[opcode])
        elif opcode in _NUMBERS:
            self._push(self._number(_NUMBERS[opcode]))
        elif opcode in _BYTES:
            self._push(self._counted(_BYTES[opcode]))
        elif opcode in _TEXTS:
            self._push(self._counted(_TEXTS[opcode]).decode("utf-8", "surrogatepass"))
        elif opcode in _LONGS:
            self._push(int.from_bytes(self._counted(_LONGS[opcode]), "little", signed=True))
        elif opcode in _TUPLES:
            self._push(tuple(self._pop(_TUPLES[opcode])))
        elif opcode in _PUTS:
            self._remember(self._number(_PUTS[opcode]))
        elif opcode in _GETS:
            self._recall(self._number(_GETS[opcode]))
        else:
            self._rarer_step(opcode)

    def _rarer_step(self, opcode):
        match opcode:
            case pickle.MARK:
                self._outer_stacks.append(self._stack)
                self._stack = []
            case pickle.EMPTY_LIST:
                self._push([])
            case pickle.LIST:
                self._push(self._pop_to_mark())
            case pickle.TUPLE:
                self._push(tuple(self._pop_to_mark()))
            case pickle.APPEND:
                self._extend(self._pop(1))
            case pickle.APPENDS:
                self._extend(self._pop_to_mark())
            case pickle.MEMOIZE:
                self._remember(len(self._memo))
            case pickle.GLOBAL:
                self._global(self._line().decode(), self._line().decode())
            case pickle.STACK_GLOBAL:
                self._global(*self._pop(2))
            case pickle.REDUCE:
                self._push(_call(*self._pop(2)))
            case pickle.BUILD:
                self._build()
            case pickle.PROTO:
                self._protocol()
            case pickle.FRAME:  # a hint for reading ahead, which a mapped file does not need
                self._read(8)
            # What follows is protocol 0: text, one value to a line.
            case pickle.INT:
                line = self._line()
                self._push(line == b"01" if line in (b"00", b"01") else int(line))
            case pickle.LONG:
                self._push(int(self._line().removesuffix(b"L")))
            case pickle.FLOAT:
                self._push(float(self._line()))
            case pickle.STRING:
                self._push(_unquote(self._line()))
            case pickle.UNICODE:
                self._push(self._line().decode("raw-unicode-escape"))
            case pickle.PUT:
                self._remember(int(self._line()))
            case pickle.GET:
                self._recall(int(self._line()))
            case pickle.INST:
                raise _would_run(self._line().decode(), self._line().decode())
            case _:
                self._refuse(opcode)

    def _refuse(self, opcode):
        if opcode not in _NAMES:
            raise ValueError(f"expected an instruction at byte {self._data.tell() - 1}, received {opcode!r}")
        raise _Refused(
            f"{_PLAIN}, received the pickle instruction {_NAMES[opcode]}, which makes other objects"
        )

    def _read(self, count):
        if not 0 <= count <= self._data.size() - self._data.tell():
            raise ValueError(f"expected {count} bytes at {self._data.tell()}, of {self._data.size()} in all")
        return self._data.read(count)

    def _line(self):
        line = self._data.readline()
        if not line.endswith(b"\n"):
            raise ValueError("it ends in the middle of a line")
        return line[:-1].removesuffix(b"\r")

    def _number(self, layout):
        return layout.unpack(self._read(layout.size))[0]

    def _counted(self, layout):
        return self._read(self._number(layout))

    def _protocol(self):
        version = self._number(_BYTE)
        if version > 5:
            raise ValueError(f"expected a pickle protocol of 0 to 5, received {version}")

    def _push(self, value):
        self._stack.append(value)

    def _pop(self, count):
        start = len(self._stack) - count
        if start < 0:
            raise ValueError("an instruction finds no value to work on")
        items = self._stack[start:]
        del self._stack[start:]
        return items

    def _pop_to_mark(self):
        if not self._outer_stacks:
            raise ValueError("an instruction finds no mark to go back to")
        items, self._stack = self._stack, self._outer_stacks.pop()
        return items

    def _extend(self, items):
        (target,) = self._pop(1)
        if not isinstance(target, list):
            raise ValueError(f"expected a list to append to, received {type(target).__name__}")
        target.extend(items)
        self._push(target)

    def _remember(self, key):
        (value,) = self._pop(1)
        self._memo[key] = value
        self._push(value)

    def _recall(self, key):
        if key not in self._memo:
            raise ValueError(f"it refers to value {key}, which is not there")
        value = self._memo[key]
        finished = isinstance(value, _Unfinished) and value.value is not None
        self._push(value.value if finished else value)

    def _global(self, module, name):
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("a global is named by something else than strings")
        if (module, name) not in _GLOBALS:
            raise _would_run(module, name)
        self._push(_GLOBALS[module, name])

    def _build(self):
        unfinished, state = self._pop(2)
        match unfinished, state:
            # Version 4 adds metadata: of no effect on the numbers.
            case _Unfinished(_Global.DTYPE, code), (3 | 4, order, None, None, None, *_):
                unfinished.value = _dtype(code, order)
            case _Unfinished(_Global.RECONSTRUCT), (1, shape, dtype, in_columns, data):
                unfinished.value = _array(data, dtype, shape, "F" if in_columns else "C")
            case _:
                raise _Refused(f"{_PLAIN}, received another object with a state of its own")
        self._push(unfinished.value)


def _call(target, arguments):
    """What the few known functions would return; nothing of the file's choosing is called."""
    if not isinstance(target, _Global):
        raise _Refused(f"{_PLAIN}, received a call of something else than a function")
    match target, arguments:
        case _Global.RECONSTRUCT, (_Global.NDARRAY, _, _):
            return _Unfinished(_Global.RECONSTRUCT)
        case _Global.DTYPE, (code, _, _):
            code = _ascii(code)
            if code not in _DTYPES:
                raise _Refused(f"expected an array of booleans, integers or floats, received dtype '{code}'")
            return _Unfinished(_Global.DTYPE, code)
        case _Global.SCALAR, (dtype, data):
            return _array(data, dtype, (), "C")[()]
        case _Global.FROMBUFFER, (data, dtype, shape, "C" | "F" as order):
            return _array(data, dtype, shape, order)
        case _Global.ENCODE, (str() as text, "latin1"):
            return text.encode("latin-1")
        case _Global.BYTES, ():
            return b""
        case _:
            raise _Refused(f"{_PLAIN}, received an object that is made in an unknown way")


def _array(data, dtype, shape, order):
    if not isinstance(data, bytes) or not isinstance(dtype, np.dtype) or not isinstance(shape, tuple):
        raise _Refused(f"{_PLAIN}, received an array that is not stored as numbers")
    if not all(isinstance(size, int) and size >= 0 for size in shape):
        raise ValueError("an array has a shape that is not of whole numbers")
    if math.prod(shape) * dtype.itemsize != len(data):
        raise ValueError(f"expected an array of {dtype}, shape {shape}, received {len(data)} bytes for it")
    return np.ndarray(shape, dtype, data, order=order)


def _dtype(code, order):
    order = _ascii(order)
    if order not in _BYTE_ORDERS:
        raise _Refused(f"expected the byte order of dtype '{code}', received '{order}'")
    return np.dtype(order + code)


def _ascii(text):
    """Names in a dtype are bytes in a pickle of Python 2, strings in one of Python 3."""
    if not isinstance(text, str | bytes):
        raise ValueError(f"expected a name in a dtype, received {type(text).__name__}")
    return text if isinstance(text, str) else text.decode("ascii")


def _unquote(line):
    if len(line) < 2 or line[:1] not in (b"'", b'"') or line[:1] != line[-1:]:
        raise ValueError("a string without its quotes")
    return codecs.escape_decode(line[1:-1])[0]


def _would_run(module, name):
    return _Refused(f"this file would run code when opened: it asks for {module}.{name}; {_PLAIN}")


def _check_plain(value):
    # With a list of what is left to look at: a file can nest deeper than Python recurses,
    # and a list can hold itself.
    left, seen = [value], set()
    while left:
        item = left.pop()
        if isinstance(item, _Global | _Unfinished):
            raise _Refused(f"{_PLAIN}, received a function, a type or an array without its contents")
        if isinstance(item, list | tuple) and id(item) not in seen:
            seen.add(id(item))
            left.extend(item)
