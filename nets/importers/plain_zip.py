"""Opens zip files without compression, as PyTorch and Keras write them."""

import io
import zipfile
from pathlib import Path

_LARGEST_DIRECTORY = 1 << 22  # bytes; the list of the 1,000 entries of a large net takes 100 kB


class PlainZip(zipfile.ZipFile):
    """A zip file that cannot make its reader use much more memory than the size of the file.

    Raises:
        ValueError: the file is not a zip, is damaged, or has entries that are compressed or overlap.
    """

    def __init__(self, path: Path) -> None:
        self._bytes = _ZipBytes(io.FileIO(path))
        try:
            super().__init__(self._bytes)
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in self.infolist()):
                raise ValueError("expected a zip without compression, received a compressed one")
            if sum(entry.file_size for entry in self.infolist()) > path.stat().st_size:
                raise ValueError("expected separate entries, received entries with more bytes than the file")
        except BaseException as error:
            self._bytes.close()
            # `zipfile` raises NotImplementedError, a RuntimeError, for a newer version of the format.
            if isinstance(error, zipfile.BadZipFile | RuntimeError | OSError):
                raise ValueError(f"expected a zip, received a damaged or newer one: {error}") from None
            raise
        self._bytes.is_open = True

    def entry(self, name: str) -> bytes:
        """Returns the bytes of an entry, after checking them against its checksum.

        Raises:
            ValueError: there is no such entry, or it is damaged.
        """
        try:
            return self.read(name)
        except (KeyError, RuntimeError, zipfile.BadZipFile, EOFError, OSError) as error:
            raise ValueError(f"entry {name!r}: {error}") from None

    def close(self) -> None:
        """Closes the file."""
        super().close()
        self._bytes.close()


class _ZipBytes(io.BufferedReader):
    """A file that refuses reads of more than `_LARGEST_DIRECTORY` bytes until the zip is open.

    Opening a zip reads its list of entries, which takes ten times as much memory as in the file.
    """

    is_open = False

    def read(self, size: int | None = -1) -> bytes:
        if not self.is_open and size is not None and size > _LARGEST_DIRECTORY:
            raise zipfile.BadZipFile(f"its list of entries takes {size} bytes")
        return super().read(size)
