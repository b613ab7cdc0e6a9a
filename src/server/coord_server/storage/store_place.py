"""Which of two directories holds the backend, and how another content takes its place in one step.

A member that lags too far gets the whole state anew. It is written into the directory that is not in
use, and a file that names the one in use is then replaced: a crash leaves the old content or the new,
whole. Layout under the member's directory::

    STORE            the name of the directory in use; without it, the first one is
    store/, store-b/ the backend, and what is left of another
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final, final

if TYPE_CHECKING:
    from coord_server.storage.disk import Disk

_POINTER: Final = "STORE"
_NAMES: Final = ("store", "store-b")


@final
class StorePlace:
    """The two directories under ``root``. Raises OSError as the disk does."""

    def __init__(self, disk: Disk, root: str) -> None:
        self._disk = disk
        self._root = root
        self._pointer = f"{root}/{_POINTER}"
        self._used = 0
        if disk.exists(self._pointer):
            name = disk.read_file(self._pointer).decode("ascii", "replace").strip()
            if name not in _NAMES:
                raise OSError(f"{self._pointer} is damaged: it names {name!r}")
            self._used = _NAMES.index(name)
        disk.mkdir(self.current)

    @property
    def current(self) -> str:
        """The directory of the backend."""
        return f"{self._root}/{_NAMES[self._used]}"

    @property
    def other(self) -> str:
        """The directory for the backend that is to come."""
        return f"{self._root}/{_NAMES[1 - self._used]}"

    def clear_other(self) -> None:
        """Remove what the other directory holds, and make it if it is not there."""
        self._disk.mkdir(self.other)
        for name in self._disk.listdir(self.other):
            with contextlib.suppress(FileNotFoundError):
                self._disk.unlink(f"{self.other}/{name}")

    def switch(self) -> None:
        """Make the other directory the one in use; durable on return."""
        self._disk.write_file_atomic(self._pointer, f"{_NAMES[1 - self._used]}\n".encode())
        self._used = 1 - self._used
