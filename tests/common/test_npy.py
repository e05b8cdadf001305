import io

import numpy as np
import pytest

from common.npy import read_array


def saved(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0).reshape(2, 3),
        np.array([True, False]),
        np.array(["a", "\u00e9\U0001f600"]),
        np.array([1, 2], ">i4"),
        np.zeros((0, 3), np.float32),
        np.array(7),
    ],
)
def test_arrays_that_numpy_saved_are_read(array):
    received = read_array(saved(array))
    assert received.dtype == array.dtype
    np.testing.assert_array_equal(received, array)


def with_header(header):
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + bytes(48)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUMPY",
        saved(np.arange(6))[:-1],
        saved(np.arange(6)) + b"1",
        saved(np.asfortranarray(np.ones((2, 3)))),
        saved(np.array([1j])),
        saved(np.array([object()], object)),
        saved(np.zeros(2, [("a", "u1")])),
        saved(np.array(["a"])).replace(b"a\0\0\0", b"\xff" * 4),
        with_header("{'descr': '<f8', 'fortran_order': False, 'shape': (True, 6)}"),
        with_header("{'descr': '<f8', 'fortran_order': False, 'shape': (1" + ", 1" * 99 + ", 6)}"),
        with_header("{'descr': '<f8', 'fortran_order': False, 'shape': (9" + "9" * 5000 + ",)}"),
        with_header("{'descr': '<U999999999', 'fortran_order': False, 'shape': (6,)}"),
        with_header("{'descr': 'x8', 'fortran_order': False, 'shape': (6,)}"),
        with_header("{'descr': ["),
    ],
)
def test_damaged_and_other_content_is_refused(content):
    with pytest.raises(ValueError, match="expected"):
        read_array(content)
