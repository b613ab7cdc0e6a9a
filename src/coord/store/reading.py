"""A whole range as of one revision, in pages (etcd API: Range with ``limit`` and ``revision``)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from coord.errors import RequestRefused
from coord.rpc.status import StatusCode
from coord.store.kv import range_request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from coord.runtime import Env
    from coord.store.kv import KV
    from coord.store.values import RangeResult

# The first page tells how large the pairs are; the others are as many as fit a few megabytes.
_FIRST_KEYS = 256
_MAX_KEYS = 4096
_PAGE_BYTES = 4 << 20
_RETRY_MIN_S = 0.05
_RETRY_MAX_S = 2.0


async def pages(
    kv: KV,
    start: bytes,
    end: bytes,
    *,
    revision: int | None = None,
    keys_only: bool = False,
) -> AsyncIterator[RangeResult]:
    """Yield ``[start, end)`` in key order, all pages as of ``revision``, by default that of the first page.

    An empty ``end`` is the one key ``start``.
    Pages that are too large for one message are asked for again in smaller ones.
    Raises what a read raises, :class:`Compacted` in the middle when the pages took too long.
    """
    at = revision
    first = start
    limit = _FIRST_KEYS
    while True:
        request = range_request(first, end, limit=limit, revision=at, keys_only=keys_only)
        try:
            result = await kv.range(request)
        except RequestRefused as error:
            if error.code is not StatusCode.RESOURCE_EXHAUSTED or limit == 1:
                raise
            limit = max(1, limit // 4)
            continue
        at = at or result.revision
        yield result
        if not result.more or not result.items:
            return
        first = result.items[-1].key + b"\0"
        size_bytes = sum([len(kv.key) + len(kv.value) for kv in result.items])
        limit = max(1, min(_MAX_KEYS, _PAGE_BYTES * len(result.items) // max(1, size_bytes)))


class Patience:
    """Waits between attempts to reach a store, longer each time; one for each series of attempts."""

    def __init__(self, env: Env) -> None:
        self._rand = env.rand
        self._pause = _RETRY_MIN_S

    async def wait(self) -> None:
        """Wait after one more failure."""
        await asyncio.sleep(self._rand.uniform(self._pause / 2, self._pause))
        self._pause = min(_RETRY_MAX_S, self._pause * 2)
