"""Reads RecordIO files with MXNet, to compare it with our own reader."""

import importlib
from pathlib import Path

import numpy as np


class MXNetReader:
    """`RecordReader` based on `mxnet.recordio.MXIndexedRecordIO`. The constructor imports MXNet.

    Args:
        rec_path: the `.rec` file. MXNet needs the `.idx` next to it.

    Attributes:
        keys: int64 `(num_records,)`.

    Raises:
        ImportError: MXNet does not work in this environment.
        FileNotFoundError: one of the two files is missing.
        ValueError: MXNet cannot open them.
    """

    def __init__(self, rec_path: Path) -> None:
        self.rec_path = Path(rec_path)
        recordio = _import_mxnet_recordio()
        idx_path = self.rec_path.with_suffix(".idx")
        for path in (self.rec_path, idx_path):
            if not path.is_file():
                raise FileNotFoundError(f"{path}: no such file; MXNet needs the .rec and its .idx")
        try:
            self._records = recordio.MXIndexedRecordIO(str(idx_path), str(self.rec_path), "r")
        except (ValueError, IndexError, RuntimeError) as error:
            raise ValueError(f"{self.rec_path}: MXNet cannot open it: {_reason(error)}") from None
        self.keys = np.array(self._records.keys, np.int64)

    def __reduce__(self):
        # MXNet's own pickling would close this reader.
        return type(self), (self.rec_path,)

    def read(self, key: int) -> bytes:
        """Returns the payload of a record. Raises `ValueError` if MXNet cannot read it."""
        place = f"{self.rec_path}: record {key}"
        if key not in self._records.idx:
            raise ValueError(f"{place}: expected one of its {len(self.keys)} keys, received an unknown one")
        try:
            payload = self._records.read_idx(key)
        except RuntimeError as error:
            raise ValueError(f"{place}: MXNet cannot read it: {_reason(error)}") from None
        if payload is None:
            raise ValueError(f"{place}: expected a record, received the end of the file")
        return payload

    def read_head(self, key: int, num_bytes: int) -> bytes:
        """Returns the first `num_bytes` of a record's payload. MXNet always reads the whole record."""
        return self.read(key)[:num_bytes]


def _reason(error):
    # MXNet's messages are C++ tracebacks. The last line contains the reason.
    return str(error).splitlines()[-1]


def _import_mxnet_recordio():
    try:
        return importlib.import_module("mxnet.recordio")
    except (ImportError, AttributeError, OSError) as error:
        # AttributeError: MXNet 1.9.1 with NumPy 1.24 or newer; OSError: a system library is missing.
        raise ImportError(
            f"MXNet cannot be imported: {error}. Use an environment of its own, with Python 3.11 and "
            "`pip install -r requirements-mxnet.txt`."
        ) from None
