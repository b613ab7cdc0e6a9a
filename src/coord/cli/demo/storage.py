"""A file that a stale lock holder cannot write to.

This is the smallest storage that fencing needs: it remembers the highest token that it has seen and refuses smaller
ones.
It knows nothing of locks, leases or the server.
Reading and writing are two calls, so that two processes that increment at the same time without a lock would lose an
increment; each call by itself is atomic, by a lock of the operating system.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path


class StaleTokenError(Exception):
    """The write came with a smaller token than an earlier one: its holder has been overtaken."""

    def __init__(self, token: int, highest: int) -> None:
        self.token = token
        self.highest = highest
        super().__init__(f"token {token} is stale: {highest} has been seen")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One accepted write: the new value, the token it came with, and who made it."""

    value: int
    token: int
    writer: str


class FencedFile:
    """A number in a file, with the list of all accepted writes: one line of JSON each, the last one counts."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def entries(self) -> list[Entry]:
        """Return all accepted writes, the oldest first."""
        with self._locked() as file:
            return _entries(file)

    def read(self) -> int:
        """Return the number; 0 before the first write."""
        entries = self.entries()
        return entries[-1].value if entries else 0

    def write(self, value: int, *, token: int, writer: str) -> None:
        """Replace the number. Raises :class:`StaleTokenError` when a higher token has been seen."""
        with self._locked() as file:
            highest = max((entry.token for entry in _entries(file)), default=0)
            if token < highest:
                raise StaleTokenError(token, highest)
            line = json.dumps(asdict(Entry(value=value, token=token, writer=writer))) + "\n"
            os.write(file, line.encode())

    @contextlib.contextmanager
    def _locked(self) -> Generator[int]:
        file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file
        finally:
            os.close(file)


def _entries(file: int) -> list[Entry]:
    text = os.pread(file, os.fstat(file).st_size, 0).decode()
    return [Entry(**json.loads(line)) for line in text.splitlines()]
