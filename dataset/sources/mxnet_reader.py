"""The same records through MXNet, for whoever wants its own reader to have the last word."""

import importlib
from pathlib import Path

import numpy as np


class MXNetReader:
    """`RecordReader` on top of `mxnet.recordio.MXIndexedRecordIO`; MXNet is imported on construction.

    Args:
        rec_path: str or `os.PathLike`.
        idx_path: str or `os.PathLike`. Defaults to `rec_path` with the suffix `.idx`. MXNet cannot
            read without one.

    Attributes:
        keys: int64, shape `(num_records,)`.

    Raises:
        ImportError: MXNet does not work in this environment.
        FileNotFoundError: one of the two files is missing.
        ValueError: MXNet cannot open or read them.
    """

    def __init__(self, rec_path, idx_path=None):
        self.rec_path = Path(rec_path)
        self.idx_path = self.rec_path.with_suffix(".idx") if idx_path is None else Path(idx_path)
        self._open()

    def __len__(self):
        return len(self.keys)

    def read(self, key):
        """The payload of a record, as bytes; `ValueError` if MXNet cannot read it."""
        if not self._records.is_open:  # MXNet itself would use the freed handle
            raise ValueError(f"{self.rec_path}: record {key}: the reader is closed")
        if key not in self._records.idx:
            raise ValueError(
                f"{self.rec_path}: record {key}: expected one of its {len(self)} keys, "
                "received an unknown one"
            )
        try:
            payload = self._records.read_idx(key)
        except RuntimeError as error:
            raise ValueError(
                f"{self.rec_path}: record {key}: MXNet cannot read it: {_reason(error)}"
            ) from None
        if payload is None:
            raise ValueError(
                f"{self.rec_path}: record {key}: expected a record, received the end of the file"
            )
        return payload

    def read_head(self, key, num_bytes):
        """The first `num_bytes` of a record's payload; MXNet reads no less than the whole of it."""
        return self.read(key)[:num_bytes]

    def close(self):
        """Closes both files. Reading afterwards is a `ValueError`."""
        self._records.close()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def __getstate__(self):
        # Not MXNet's own pickling: it closes the reader that is pickled.
        return {"rec_path": self.rec_path, "idx_path": self.idx_path}

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._open()

    def _open(self):
        recordio = _import_mxnet_recordio()
        for path in (self.rec_path, self.idx_path):
            if not path.is_file():
                raise FileNotFoundError(f"{path}: no such file; MXNet needs the .rec and its .idx")
        try:
            self._records = recordio.MXIndexedRecordIO(str(self.idx_path), str(self.rec_path), "r")
        except (ValueError, IndexError, RuntimeError) as error:
            raise ValueError(f"{self.rec_path}: MXNet cannot open it: {_reason(error)}") from None
        self.keys = np.array(self._records.keys, np.int64)


def _reason(error):
    # MXNet's messages are C++ tracebacks; what went wrong is their last line.
    return str(error).splitlines()[-1]


def _import_mxnet_recordio():
    try:
        return importlib.import_module("mxnet.recordio")
    except (ImportError, AttributeError, OSError) as error:
        # AttributeError: MXNet 1.9.1 with NumPy 1.24 or newer; OSError: a system library is missing.
        raise ImportError(
            "the MXNet reader needs an environment of its own, with Python 3.11 and "
            f"`pip install -r requirements-mxnet.txt`; here: {error}"
        ) from None
