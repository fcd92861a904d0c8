"""``wsgi.file_wrapper`` (PEP 3333, "Optional Platform-Specific File Handling"): a file that may be sent by the kernel.

Promises: an object that is also an ordinary iterable, so that a middleware may read it as any other. What really is a
file of the operating system is given as a ``FileRange``. Refuses to take everything with a ``fileno`` for one: that of
a ``gzip.GzipFile`` is the compressed file's, and a pipe cannot be sent from an offset; those are read.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from typing import Any

from ..file_range import FileRange


class FileWrapper:
    """See the module. filelike: has ``read(size) -> bytes``, and may have ``close``. One request's, one thread's."""

    __slots__ = ("block_size", "filelike")

    def __init__(self, filelike: Any, block_size: int = 8192) -> None:
        self.filelike = filelike
        self.block_size = block_size

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        data: bytes = self.filelike.read(self.block_size)
        if data:
            return data
        raise StopIteration

    def close(self) -> None:
        """Close the file, if it can be closed."""
        if hasattr(self.filelike, "close"):
            self.filelike.close()

    # Werkzeug answers a Range request by these three.

    def seekable(self) -> bool:
        """Whether the file can be moved in."""
        return hasattr(self.filelike, "seekable") and bool(self.filelike.seekable())

    def seek(self, *args: Any) -> Any:
        """The file's own."""
        return self.filelike.seek(*args)

    def tell(self) -> Any:
        """The file's own."""
        return self.filelike.tell()

    def as_range(self, announced: int) -> FileRange | None:
        """The file from where it stands to its end; None if it has to be read. announced: the content-length, or -1.

        A file that is longer than that ends there.
        """
        file = _real_file(self.filelike)
        if file is None:
            return None
        try:
            return FileRange.part(file, None, announced if announced >= 0 else None)
        except OSError:  # a pipe, a device, closed: reading it says what is wrong, if something is
            return None


def _real_file(file: Any) -> Any:
    """The object that reads the descriptor itself, if ``file`` is one or only stands before one; else None."""
    if isinstance(file, tempfile._TemporaryFileWrapper):
        file = file.file
    elif (inner := getattr(file, "file", None)) is not None and getattr(inner, "read", 0) == file.read:
        file = (
            inner  # Django's File: its ``read`` *is* the other's, so nothing is done to the bytes on the way
        )
    if type(file) is io.FileIO:
        return file
    if type(file) in (io.BufferedReader, io.BufferedRandom) and type(file.raw) is io.FileIO:
        return file  # what a writer has not flushed yet lies before its position, so it is not missed
    return None
