"""A local copy of the last good document, to start from while the store is away.

One line with the revision and a checksum, then the document. A file that was cut or changed is no snapshot.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

from coord.recipes.config.sources import Document
from coord.runtime import AtomicFile, read_bytes

if TYPE_CHECKING:
    from coord.runtime.seams import Offload

_HEAD = re.compile(rb"coord-config 1 ([0-9]+) ([0-9a-f]{64})\n")


def _sum(revision: bytes, raw: bytes) -> bytes:
    return hashlib.sha256(revision + b"\n" + raw).hexdigest().encode()


def _write(path: str, document: Document) -> None:
    revision = b"%d" % document.revision
    file = AtomicFile(path)
    try:
        file.open()
        file.write(b"coord-config 1 %b %b\n" % (revision, _sum(revision, document.raw)))
        file.write(document.raw)
        file.commit()
    finally:
        file.abandon()


class SnapshotFile:
    """The file at ``path``. Read and written on a worker thread."""

    def __init__(self, path: str, offload: Offload) -> None:
        self._path = path
        self._offload = offload

    async def write(self, document: Document) -> None:
        """Replace it. Raises ``OSError``."""
        await self._offload.run(_write, self._path, document)

    async def read(self) -> Document | None:
        """Return what it holds; None if there is none, or it is damaged."""
        try:
            text = await self._offload.run(read_bytes, self._path)
        except OSError:
            return None
        head = _HEAD.match(text)
        if head is None or _sum(head[1], text[head.end() :]) != head[2]:
            return None
        return Document(raw=text[head.end() :], revision=int(head[1]))
