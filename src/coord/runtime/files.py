"""Files that appear whole or not at all. Everything here blocks: run it through Offload."""

from __future__ import annotations

import contextlib
import os
import tempfile
from typing import IO


class AtomicFile:
    """A file written beside its place, and put there by :meth:`commit`: readers see all of it, or what was before.

    One call at a time. Raises ``OSError``. Only the owner may read it.
    """

    def __init__(self, path: str) -> None:
        self._path = os.path.abspath(path)
        self._part = ""
        self._file: IO[bytes] | None = None

    def open(self) -> None:
        """Make the file beside the place."""
        folder, name = os.path.split(self._path)
        descriptor, self._part = tempfile.mkstemp(prefix=f".{name}.", suffix=".part", dir=folder)
        self._file = os.fdopen(descriptor, "wb")

    def write(self, data: bytes) -> None:
        """Append ``data``."""
        self._opened().write(data)

    def commit(self) -> None:
        """Put it in its place; it is on disk when this returns."""
        file = self._opened()
        file.flush()
        os.fsync(file.fileno())
        file.close()
        os.replace(self._part, self._path)
        folder = os.open(os.path.dirname(self._path), os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def abandon(self) -> None:
        """Leave nothing behind. After :meth:`commit`, or without :meth:`open`, it changes nothing."""
        if self._file is None:
            return
        with contextlib.suppress(OSError):  # what could not be written need not be written
            self._file.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._part)

    def _opened(self) -> IO[bytes]:
        if self._file is None:
            raise ValueError("not open")
        return self._file
