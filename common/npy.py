"""Reads NumPy's array files without trust in their headers.

`numpy.load` allocates what a header claims, and a damaged header ends in errors of Python's own parser.
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
    """Reads the header of a `.npy` file in C order, up to the first byte of the data.

    Returns:
        `(descr, shape)`: what `numpy.dtype` takes, and the shape.

    Raises:
        ValueError: it is damaged.
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
        raise ValueError("expected an array in C order and its shape in the header, received another one")
    return descr, shape


def read_array(content: bytes) -> np.ndarray:
    """Returns the numbers or texts in a `.npy` file, read-only.

    Raises:
        ValueError: the file is damaged or does not hold plain numbers or texts.
    """
    file = io.BytesIO(content)
    descr, shape = read_header(file)
    if not isinstance(descr, str) or len(descr) > _LONGEST_DESCR:
        raise ValueError("expected an array of numbers or texts, received another type")
    try:
        dtype = np.dtype(descr)
    except TypeError:
        raise ValueError(f"expected an array of numbers or texts, received {descr!r}") from None
    if dtype.kind not in "biufU":
        raise ValueError(f"expected an array of numbers or texts, received {dtype}")
    num_bytes = len(content) - file.tell()
    if math.prod(shape) * dtype.itemsize != num_bytes:
        raise ValueError(f"expected an array of {dtype}, shape {shape}, received {num_bytes} bytes for it")
    array = np.frombuffer(content, dtype, offset=file.tell())
    if dtype.kind == "U" and array.size and array.view(f"{descr[0]}u4").max() > sys.maxunicode:
        raise ValueError("expected texts, received characters that do not exist")
    return array.reshape(shape)
