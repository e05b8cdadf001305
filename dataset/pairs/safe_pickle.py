"""Opens verification sets, which are pickles of NumPy arrays, without running code from them."""

import math
import mmap
from pathlib import Path
from typing import Any

import numpy as np

from nets.importers.restricted_pickle import Global, RestrictedUnpickler, Unfinished, are_sizes, brief

# NumPy accepts many more type names, including records of Python objects.
_DTYPES = frozenset(("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"))
_BYTE_ORDERS = frozenset("|<>=")


def load_plain(path: Path) -> Any:
    """Reads a pickle of lists, tuples, strings, bytes, numbers, None and NumPy arrays.

    It reads the protocols 0 to 5 of Python 2 and 3. Strings of Python 2 and bytearrays become bytes. Arrays
    of booleans, integers and floats are read-only. Arrays of objects are refused.

    Returns:
        The object that was pickled.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file contains other objects, is damaged, or is not a pickle.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if not path.stat().st_size:
        raise ValueError(f"{path}: expected a pickle, received an empty file")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            return _ArrayUnpickler(data, len(data)).load()
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None


class _ArrayUnpickler(RestrictedUnpickler):
    """Imitates the functions of NumPy and Python 3 that restore arrays and bytes."""

    expected = "expected only lists, tuples, strings, bytes, numbers and NumPy arrays"
    # NumPy 2 renamed `numpy.core` to `numpy._core`. Files with either name exist.
    names = frozenset(
        (
            *("numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct"),
            *("numpy.core.multiarray scalar", "numpy._core.multiarray scalar"),
            *("numpy.core.numeric _frombuffer", "numpy._core.numeric _frombuffer"),
            *("numpy ndarray", "numpy dtype"),
            *("_codecs encode", "__builtin__ bytes"),  # bytes of Python 3 in protocols 0 to 2
        )
    )

    def __init__(self, file: Any, file_size: int) -> None:
        super().__init__(file, file_size)
        self._encoded: dict[str, bytes] = {}

    def call(self, name: str, arguments: Any) -> Any:
        match name.replace("numpy._core", "numpy.core"), arguments:
            case "numpy.core.multiarray _reconstruct", (Global("numpy ndarray"), _, _):
                return Unfinished("array")
            case "numpy dtype", (code, _, _):
                code = _ascii(code)
                if code not in _DTYPES:
                    raise self.refusal(f"dtype {brief(code)}")
                return Unfinished(code)
            case "numpy.core.multiarray scalar", (dtype, data):
                return self._array(data, dtype, (), "C")[()]
            case "numpy.core.numeric _frombuffer", (data, dtype, shape, "C" | "F" as order):
                return self._array(data, dtype, shape, order)
            case "_codecs encode", (str() as text, "latin1"):
                if text not in self._encoded:  # A file may request the same bytes many times.
                    self._encoded[text] = text.encode("latin-1")
                return self._encoded[text]
            case "__builtin__ bytes", ():
                return b""
            case _:
                raise self.refusal("an object that is constructed in an unknown way")

    def build(self, target: Any, state: Any) -> Any:
        match target, state:
            # Version 4 adds metadata, which has no effect on the numbers.
            case Unfinished(code), (3 | 4, order, None, None, None, *_) if code in _DTYPES:
                order = _ascii(order)
                if order not in _BYTE_ORDERS:
                    raise self.refusal(f"byte order {brief(order)} of dtype '{code}'")
                return np.dtype(order + code)
            case Unfinished("array"), (1, shape, dtype, in_columns, data):
                return self._array(data, dtype, shape, "F" if in_columns else "C")
            case _:
                raise self.refusal("another object with a state of its own")

    def _array(self, data, dtype, shape, order):
        if not isinstance(data, bytes) or not isinstance(dtype, np.dtype):
            raise self.refusal("an array that is not stored as numbers")
        if not are_sizes(shape):
            raise ValueError(f"expected whole numbers as the shape of an array, received {brief(shape)}")
        if math.prod(shape) * dtype.itemsize != len(data):
            raise ValueError(
                f"expected an array of {dtype}, shape {shape}, received {len(data)} bytes for it"
            )
        return np.ndarray(shape, dtype, data, order=order)


def _ascii(text):
    """Returns a name in a dtype as a string. In pickles of Python 2 it is stored as bytes."""
    if not isinstance(text, str | bytes):
        raise ValueError(f"expected a name in a dtype, received {type(text).__name__}")
    return text if isinstance(text, str) else text.decode("ascii")
