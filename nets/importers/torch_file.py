"""Reads the tensors of a PyTorch file without PyTorch, and without running anything that is in it.

`torch.save` writes a zip: a pickle of the objects, and an entry with the bytes of every storage. A pickle
is a program for a stack machine that can call any function by its name. This is such a machine
cut down to dicts, lists, numbers, strings and tensors; it looks nothing up and calls nothing.
"""

import dataclasses
import math
import pickletools  # takes a pickle apart into its instructions, and runs none
import zipfile
from pathlib import Path

import numpy as np

_DTYPES = {
    "torch DoubleStorage": "f8",
    "torch FloatStorage": "f4",
    "torch HalfStorage": "f2",
    "torch BFloat16Storage": "u2",  # NumPy has no such type; it is the upper half of a float32
    "torch LongStorage": "i8",
    "torch IntStorage": "i4",
    "torch ShortStorage": "i2",
    "torch CharStorage": "i1",
    "torch ByteStorage": "u1",
    "torch BoolStorage": "?",
}
_ORDERED_DICT = "collections OrderedDict"
_TENSOR = "torch._utils _rebuild_tensor_v2"
_PARAMETER = "torch._utils _rebuild_parameter"
# Complete: all that a file may name, and each stands for nothing but its name.
_GLOBALS = frozenset((_ORDERED_DICT, _TENSOR, _PARAMETER, *_DTYPES))
_OLDER_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # PyTorch before 1.6: a pickled magic number
_EXPECTED = "expected only tensors, dicts, lists, tuples, numbers and strings"


@dataclasses.dataclass(frozen=True)
class TorchTensor:
    """Where a tensor lies; `offset` and `strides` count elements of its storage."""

    storage: str
    dtype: str
    offset: int
    shape: tuple
    strides: tuple


class TorchFile:
    """A file of `torch.save`, PyTorch 1.6 or newer, as plain tensors. A context manager.

    Nothing in the file is run. Sizes, offsets and strides are checked when it is opened, the bytes
    of a tensor against their checksum when it is read.

    References:
    - PyTorch, `torch/serialization.py::_save` and `torch/_utils.py::_rebuild_tensor_v2`: the format

    Args:
        path: str or Path.

    Attributes:
        contents: what was saved, with a `TorchTensor` for each tensor or parameter, and
            dicts without the attributes that PyTorch hangs on them (`_metadata`).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: another format, a damaged file, or one that holds anything else than
            tensors, dicts, lists, tuples, numbers and strings.

    Example:

    >>> with TorchFile("tests/golden/torch/tensors.pth") as file:
    ...     file.read(file.contents["half"]).dtype
    dtype('float32')
    """

    def __init__(self, path):
        self._path = Path(path)
        self._bytes = {}
        if not self._path.is_file():
            raise FileNotFoundError(f"{path}: no such file")
        try:
            self._zip = zipfile.ZipFile(self._path)
        except zipfile.BadZipFile:
            raise ValueError(f"{path}: {self._another_format()}") from None
        try:
            self._folder = self._find_folder()
            self._order = self._byte_order()
            self.contents = _Machine(self._entry("data.pkl"), self._sizes()).run()
        except (ValueError, RuntimeError, zipfile.BadZipFile, EOFError) as error:
            self.close()
            raise ValueError(f"{path}: {error}") from None

    def read(self, tensor):
        """The values of a tensor.

        Args:
            tensor: `TorchTensor` of this file.

        Returns:
            Array of the file's dtype; float16 and bfloat16 become float32, which is exact.

        Raises:
            ValueError: the bytes do not match their checksum.
        """
        dtype = np.dtype(_DTYPES[tensor.dtype]).newbyteorder(self._order)
        try:
            if tensor.storage not in self._bytes:
                self._bytes[tensor.storage] = self._entry(f"data/{tensor.storage}")
            strides = [stride * dtype.itemsize for stride in tensor.strides]
            offset = tensor.offset * dtype.itemsize
            values = np.ndarray(tensor.shape, dtype, self._bytes[tensor.storage], offset, strides)
        except (ValueError, OverflowError, RuntimeError, zipfile.BadZipFile, EOFError) as error:
            raise ValueError(f"{self._path}: storage {tensor.storage}: {error}") from None
        if tensor.dtype == "torch BFloat16Storage":
            return np.asarray(values.astype(np.uint32) << 16).view(np.float32)
        native = np.float32 if dtype.str[1:] == "f2" else dtype.newbyteorder("=")
        return values.astype(native, copy=False)

    def close(self):
        """Closes the file; arrays that were read stay."""
        self._zip.close()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def _another_format(self):
        with self._path.open("rb") as file:
            start = file.read(len(_OLDER_START))
        received = (
            "the older one" if start == _OLDER_START else f"half a file, or one that begins with {start}"
        )
        return (
            f"expected PyTorch's zip format (of 1.6 and newer), received {received}. PyTorch itself makes "
            "a new file of an older one: torch.save(torch.load(old, 'cpu', weights_only=True), new)"
        )

    def _find_folder(self):
        entries = self._zip.infolist()
        folders = [
            entry.filename[: -len("data.pkl")] for entry in entries if entry.filename.endswith("/data.pkl")
        ]
        if len(folders) != 1:
            raise ValueError(f"expected one data.pkl, as torch.save writes it, received {len(folders)}")
        # PyTorch never compresses, so nothing can be larger than the file.
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ValueError("expected a zip without compression, received a compressed one")
        if sum(entry.file_size for entry in entries) > self._path.stat().st_size:
            raise ValueError("expected separate entries, received more bytes in them than in the file")
        return folders[0]

    def _byte_order(self):
        if f"{self._folder}byteorder" not in self._zip.NameToInfo:
            return "<"  # PyTorch before 2.1 does not tell
        order = self._entry("byteorder")
        if order not in (b"little", b"big"):
            raise ValueError(f"byteorder: expected 'little' or 'big', received {order}")
        return "<" if order == b"little" else ">"

    def _sizes(self):
        start = f"{self._folder}data/"
        return {
            entry.filename.removeprefix(start): entry.file_size
            for entry in self._zip.infolist()
            if entry.filename.startswith(start)
        }

    def _entry(self, name):
        return self._zip.read(self._folder + name)  # which compares the checksum


@dataclasses.dataclass(frozen=True)
class _Global:
    name: str


@dataclasses.dataclass(frozen=True)
class _Storage:
    key: str
    dtype: str
    size: int


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}


class _Machine:
    """The stack machine of the pickle format, cut down to what a file of tensors needs.

    Args:
        program: bytes of the pickle.
        sizes: dict from the names of the storages to their bytes.
    """

    def __init__(self, program, sizes):
        self._program = program
        self._sizes = sizes
        self._stack = []
        self._outer_stacks = []
        self._memo = {}

    def run(self):
        try:
            for opcode, argument, _ in pickletools.genops(self._program):
                self._step(opcode.name, argument)
        except (IndexError, KeyError) as error:
            raise ValueError(f"a damaged pickle, an instruction finds nothing to work on: {error}") from None
        if len(self._stack) != 1:
            raise ValueError(f"a damaged pickle, expected one value, received {len(self._stack)}")
        return self._stack[0]

    def _step(self, name, argument):
        push = self._stack.append
        match name:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "LONG4" | "BINFLOAT":
                push(argument)
            case "BINUNICODE" | "SHORT_BINUNICODE" | "BINUNICODE8":
                push(argument)
            case "NONE" | "NEWTRUE" | "NEWFALSE" | "EMPTY_TUPLE":
                push(_CONSTANTS[name])
            case "EMPTY_DICT":
                push({})
            case "EMPTY_LIST":
                push([])
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                push(tuple(self._pop(int(name[-1]))))
            case "MARK":
                self._outer_stacks.append(self._stack)
                self._stack = []
            case "TUPLE":
                items = self._pop_to_mark()  # first: it changes the stack
                self._stack.append(tuple(items))
            case "APPEND":
                self._extend(self._pop(1))
            case "APPENDS":
                self._extend(self._pop_to_mark())
            case "SETITEM":
                self._update(self._pop(2))
            case "SETITEMS":
                self._update(self._pop_to_mark())
            case "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = self._stack[-1]
            case "MEMOIZE":
                self._memo[len(self._memo)] = self._stack[-1]
            case "BINGET" | "LONG_BINGET":
                push(self._memo[argument])
            case "GLOBAL":
                push(_find_global(argument))
            case "STACK_GLOBAL":
                push(_find_global("{} {}".format(*self._pop(2))))
            case "BINPERSID":
                push(self._storage(*self._pop(1)))
            case "REDUCE":
                push(_call(*self._pop(2)))
            case "BUILD":
                target, _ = self._pop(2)
                _check_type(target, dict, "a state of")  # its attributes, which are left out
                push(target)
            case _:
                raise ValueError(f"{_EXPECTED}, received the pickle instruction {name}")

    def _pop(self, count):
        items = [self._stack.pop() for _ in range(count)]
        return items[::-1]

    def _pop_to_mark(self):
        items, self._stack = self._stack, self._outer_stacks.pop()
        return items

    def _extend(self, items):
        _check_type(self._stack[-1], list, "an item of")
        self._stack[-1].extend(items)

    def _update(self, items):
        _check_type(self._stack[-1], dict, "an item of")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str | int):
                raise ValueError(f"{_EXPECTED}, received a key of type {type(key).__name__}")
            self._stack[-1][key] = value

    def _storage(self, identity):
        match identity:
            case ("storage", _Global(dtype), str() as key, str(), int() as size) if dtype in _DTYPES:
                expected = size * np.dtype(_DTYPES[dtype]).itemsize
                received = self._sizes.get(key, "no such storage")
                if received != expected:
                    raise ValueError(f"storage {key!r}: expected {expected} bytes, received {received}")
                return _Storage(key, dtype, size)
            case _:
                raise ValueError(f"{_EXPECTED}, received a reference to something else")


def _find_global(name):
    if name not in _GLOBALS:
        raise ValueError(
            f"this file would run code when opened: it asks for {name.replace(' ', '.')}; {_EXPECTED}"
        )
    return _Global(name)


def _call(function, arguments):
    """What the few known functions would return; nothing of the file's choosing is called."""
    match function, arguments:
        case _Global(name), () if name == _ORDERED_DICT:
            return {}
        case _Global(name), (_Storage() as storage, offset, tuple() as shape, tuple() as strides, *_) if (
            name == _TENSOR
        ):
            return _tensor(storage, offset, shape, strides)
        case _Global(name), (TorchTensor() as tensor, *_) if name == _PARAMETER:
            return tensor
        case _:
            raise ValueError(f"{_EXPECTED}, received an object that is made in another way")


def _tensor(storage, offset, shape, strides):
    numbers = (offset, *shape, *strides)
    if len(shape) != len(strides) or not all(isinstance(n, int) and n >= 0 for n in numbers):
        raise ValueError(f"expected a tensor, received shape {shape}, strides {strides}, offset {offset}")
    count = math.prod(shape)
    end = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)) + 1
    if count > storage.size or (count and end > storage.size):
        raise ValueError(
            f"storage {storage.key!r} of {storage.size} elements: received a tensor outside of it: "
            f"shape {shape}, strides {strides}, offset {offset}"
        )
    return TorchTensor(storage.key, storage.dtype, offset, shape, strides)


def _check_type(value, expected, what):
    if not isinstance(value, expected):
        raise ValueError(f"{_EXPECTED}, received {what} {type(value).__name__}")
