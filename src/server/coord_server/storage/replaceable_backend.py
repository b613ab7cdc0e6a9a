"""A Backend whose content can be replaced as a whole, while everybody keeps the one object."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from typing_extensions import override

from coord_server.storage.backend import Backend

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from coord_server.storage.backend import Batch, Bucket, View


@final
class ReplaceableBackend(Backend):
    """Passes everything on to the backend at hand. No batch may be under way when that changes."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def replace(self, backend: Backend) -> None:
        """Use another backend from now on, and close the old one."""
        old, self._backend = self._backend, backend
        old.close()

    @override
    def get(self, bucket: Bucket, key: bytes) -> bytes | None:
        return self._backend.get(bucket, key)

    @override
    def scan(
        self, bucket: Bucket, start: bytes = b"", end: bytes | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        return self._backend.scan(bucket, start, end)

    @override
    def write(self, batch: Batch) -> None:
        self._backend.write(batch)

    @override
    def view(self) -> AbstractContextManager[View]:
        return self._backend.view()

    @override
    def defragment(self) -> None:
        self._backend.defragment()

    @override
    def size_bytes(self) -> int:
        return self._backend.size_bytes()

    @override
    def in_use_bytes(self) -> int:
        return self._backend.in_use_bytes()

    @override
    def close(self) -> None:
        self._backend.close()
