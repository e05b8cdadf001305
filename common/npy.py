"""Reads `.npy` files without trusting their headers.

`numpy.load` allocates as much memory as a header claims, and raises errors of Python's parser if the header
is damaged.
"""

import ast
import io
import math
import sys
from typing import Any, BinaryIO

import numpy as np

_LONGEST_HEADER = 1 << 12  # bytes
_LARGEST_RANK = 64
_LONGEST_DESCR = 8  # such as "<f8"


def read_header(file: BinaryIO) -> tuple[Any, tuple[int, ...]]:
    """Reads the header of a `.npy` file, up to the first byte of the data.

    Returns:
        `(descr, shape)`: the data type, in a form that `numpy.dtype` accepts, and the shape.

    Raises:
        ValueError: the header is damaged, or the array is not in C order.
    """
    try:
        major, _ = np.lib.format.read_magic(file)
        length = int.from_bytes(file.read(2 if major == 1 else 4), "little")
        header = ast.literal_eval(file.read(min(length, _LONGEST_HEADER)).decode("latin-1").strip())
        descr, in_columns, shape = (header[key] for key in ("descr", "fortran_order", "shape"))
    except (ValueError, TypeError, LookupError, SyntaxError, MemoryError, RecursionError):
        raise ValueError("expected the header of a NumPy array, received a damaged one") from None
    is_shape = isinstance(shape, tuple) and len(shape) <= _LARGEST_RANK
    if in_columns or not is_shape or not all(type(n) is int and 0 <= n < 1 << 63 for n in shape):
        raise ValueError("expected a header with C order and a valid shape, received another one")
    return descr, shape


def read_array(content: bytes) -> np.ndarray:
    """Returns the array of numbers or strings in a `.npy` file, read-only.

    Args:
        content: the whole file.

    Raises:
        ValueError: the file is damaged, or contains something other than numbers or strings.
    """
    file = io.BytesIO(content)
    descr, shape = read_header(file)
    if not isinstance(descr, str) or len(descr) > _LONGEST_DESCR:
        raise ValueError("expected an array of numbers or strings, received another type")
    try:
        dtype = np.dtype(descr)
    except TypeError:
        raise ValueError(f"expected an array of numbers or strings, received {descr!r}") from None
    if dtype.kind not in "biufU":
        raise ValueError(f"expected an array of numbers or strings, received {dtype}")
    num_bytes = len(content) - file.tell()
    if math.prod(shape) * dtype.itemsize != num_bytes:
        raise ValueError(f"expected an array of {dtype}, shape {shape}, received {num_bytes} bytes for it")
    array = np.frombuffer(content, dtype, offset=file.tell())
    if dtype.kind == "U" and array.size and array.view(f"{descr[0]}u4").max() > sys.maxunicode:
        raise ValueError("expected strings of Unicode characters, received invalid code points")
    return array.reshape(shape)
