"""Reads the tensors of a PyTorch file without PyTorch and without running any code from it.

`torch.save` writes a zip. It contains a pickle of the objects, and one entry for the bytes of each storage.
"""

import contextlib
import dataclasses
import io
import math
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np

from .plain_zip import PlainZip
from .restricted_pickle import Global, RefusedPickle, RestrictedUnpickler, are_sizes, brief

_DTYPES = {
    "torch DoubleStorage": "f8",
    "torch FloatStorage": "f4",
    "torch HalfStorage": "f2",
    "torch BFloat16Storage": "u2",  # NumPy has no bfloat16, which is the upper half of a float32
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
# Files of PyTorch before 1.6 start with this pickled magic number.
_OLDER_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."


@dataclasses.dataclass(frozen=True)
class TorchTensor:
    """The place of a tensor in its file.

    Attributes:
        storage: name of the storage that contains its values.
        dtype: PyTorch's type of the storage, such as `"torch FloatStorage"`.
        offset: index of the first element in the storage.
        shape: shape of the tensor.
        strides: for each axis, the number of elements in the storage from one index to the next.
    """

    storage: str
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class TorchFile(contextlib.AbstractContextManager["TorchFile"]):
    """A file that `torch.save` of PyTorch 1.6 or newer wrote, as a context manager.

    Opening it checks sizes, offsets and strides. Reading a tensor checks its bytes against their checksum.

    References:
    - PyTorch, `torch/serialization.py::_save` and `torch/_utils.py::_rebuild_tensor_v2`: the format

    Attributes:
        contents: the saved object, with a `TorchTensor` in place of each tensor or parameter.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file has another format, is damaged, or contains anything other than tensors, dicts,
            lists, tuples, numbers and strings.

    Example:

    >>> with TorchFile("tests/golden/torch/tensors.pth") as file:
    ...     file.read(file.contents["half"]).dtype
    dtype('float32')
    """

    contents: Any

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._storages: dict[str, np.ndarray] = {}
        if not self._path.is_file():
            raise FileNotFoundError(f"{path}: no such file")
        with contextlib.ExitStack() as resources:
            try:
                if not zipfile.is_zipfile(self._path):
                    raise ValueError(self._describe_other_format())
                self._zip = resources.enter_context(PlainZip(self._path))
                self._folder = self._find_folder()
                self._order = self._byte_order()
                sizes = {entry.filename: entry.file_size for entry in self._zip.infolist()}
                program = io.BytesIO(self._entry("data.pkl"))
                file_size = self._path.stat().st_size
                unpickler = _TensorUnpickler(program, file_size, f"{self._folder}data/", sizes)
                self.contents = unpickler.load()
            except (ValueError, zipfile.BadZipFile) as error:
                raise ValueError(f"{path}: {error}") from None
            resources.pop_all()

    def read(self, tensor: TorchTensor) -> np.ndarray:
        """Returns the values of a tensor in the file's dtype; float16 and bfloat16 become float32 exactly.

        Raises:
            ValueError: the bytes do not match their checksum.
        """
        try:
            if tensor.storage not in self._storages:
                self._storages[tensor.storage] = self._read_storage(tensor.storage, tensor.dtype)
            values = self._storages[tensor.storage]
            strides = [stride * values.itemsize for stride in tensor.strides]
            return np.ndarray(tensor.shape, values.dtype, values, tensor.offset * values.itemsize, strides)
        except (ValueError, OverflowError) as error:
            raise ValueError(f"{self._path}: storage {tensor.storage[:80]}: {error}") from None

    def __exit__(self, *exception: object) -> None:
        """Closes the file. Arrays that were read from it stay valid."""
        self._zip.close()

    def _read_storage(self, key, dtype):
        # Convert the whole storage once, because a file may use the same bytes in many tensors.
        values = np.frombuffer(self._entry(f"data/{key}"), self._order + _DTYPES[dtype])
        if dtype == "torch BFloat16Storage":
            return (values.astype(np.uint32) << 16).view(np.float32)
        native = np.float32 if dtype == "torch HalfStorage" else values.dtype.newbyteorder("=")
        return values.astype(native, copy=False)

    def _describe_other_format(self):
        with self._path.open("rb") as file:
            start = file.read(len(_OLDER_START))
        is_older = start == _OLDER_START
        received = "the older format" if is_older else f"an incomplete file or one that starts with {start}"
        return (
            f"expected the zip format of PyTorch 1.6 and newer, received {received}. Convert an older file "
            "with PyTorch: torch.save(torch.load(old, 'cpu', weights_only=True), new)"
        )

    def _find_folder(self):
        names = self._zip.namelist()
        folders = [name.removesuffix("data.pkl") for name in names if name.endswith("/data.pkl")]
        if len(folders) != 1:
            raise ValueError(f"expected one data.pkl, as torch.save writes it, received {len(folders)}")
        return folders[0]

    def _byte_order(self):
        if f"{self._folder}byteorder" not in self._zip.namelist():
            return "<"  # PyTorch before 2.1 does not write the entry
        order = self._entry("byteorder")
        if order not in (b"little", b"big"):
            raise ValueError(f"byteorder: expected 'little' or 'big', received {brief(order)}")
        return "<" if order == b"little" else ">"

    def _entry(self, name):
        return self._zip.entry(self._folder + name)


@dataclasses.dataclass(frozen=True)
class _Storage:
    key: str
    dtype: str
    size: int


class _TensorUnpickler(RestrictedUnpickler):
    """Imitates what PyTorch calls to restore tensors.

    Args:
        file: the pickle.
        file_size: number of bytes of the whole zip.
        folder: start of the names of all storages.
        sizes: numbers of bytes of the zip's entries, by name.
    """

    expected = "expected only tensors, dicts, lists, tuples, numbers and strings"
    allows_dicts = True
    names = frozenset((_ORDERED_DICT, _TENSOR, _PARAMETER, *_DTYPES))

    def __init__(self, file: IO[bytes], file_size: int, folder: str, sizes: dict[str, int]) -> None:
        super().__init__(file, file_size)
        self._folder, self._sizes = folder, sizes
        self._dtypes: dict[str, str] = {}

    def find_persistent(self, identity: Any) -> _Storage:
        match identity:
            case ("storage", Global(dtype), str() as key, str(), int() as size) if dtype in _DTYPES:
                expected = size * np.dtype(_DTYPES[dtype]).itemsize
                received = self._sizes.get(self._folder + key, "no such storage")
                if received != expected:
                    raise RefusedPickle(
                        f"storage {brief(key)}: expected {brief(expected)} bytes, received {received}"
                    )
                if self._dtypes.setdefault(key, dtype) != dtype:  # PyTorch never writes such a file
                    raise RefusedPickle(f"storage {brief(key)}: expected one type, received two")
                return _Storage(key, dtype, size)
            case _:
                raise self.refusal("a reference to another object")

    def call(self, name: str, arguments: Any) -> Any:
        match arguments:
            case () if name == _ORDERED_DICT:
                return {}
            case (_Storage() as storage, offset, tuple() as shape, tuple() as strides, *_) if name == _TENSOR:
                return _tensor(storage, offset, shape, strides)
            case (TorchTensor() as tensor, *_) if name == _PARAMETER:
                return tensor
        raise self.refusal("an object that is made in an unknown way")

    def build(self, target: Any, state: Any) -> dict:
        if not isinstance(target, dict):
            raise self.refusal("an object with a state of its own")
        return target  # drops the attributes of an OrderedDict, such as `_metadata`


def _tensor(storage, offset, shape, strides):
    place = f"shape {brief(shape)}, strides {brief(strides)}, offset {brief(offset)}"
    if not all(map(are_sizes, (shape, strides, (offset,)))) or len(shape) != len(strides):
        raise ValueError(f"expected a tensor, received {place}")
    count = math.prod(shape)
    end = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)) + 1
    if count > storage.size or (count and end > storage.size):
        raise ValueError(
            f"storage {brief(storage.key)} of {storage.size} elements: received a tensor outside of it: "
            f"{place}"
        )
    return TorchTensor(storage.key, storage.dtype, offset, shape, strides)
