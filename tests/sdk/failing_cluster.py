"""A cluster of three real members that loses its leader again and again, for the SDK's whole suite."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from coord.testing.chaos import Cluster
from coord.testing.chaos.cluster import Proxied

T = TypeVar("T")

_WITHIN_S = 60.0


class FailingCluster:
    """Three members on a loop and thread of their own, since tests come and go with theirs.

    :meth:`kill_leader` is called before each test: the test begins while nobody leads, and with a member missing.
    """

    def __init__(self, directory: Path) -> None:
        self._cluster = Cluster(
            directory,
            proxied=Proxied.NOTHING,
            flags=("--experimental-watch-progress-notify-interval=200ms",),
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="failing-cluster")
        self._dead: str | None = None
        self.kills = 0

    @property
    def endpoints(self) -> str:
        """Where its clients go."""
        return self._cluster.endpoints

    def __enter__(self) -> Self:
        self._thread.start()
        self._run(self._cluster.__aenter__())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._run(self._cluster.__aexit__(kind, error, trace))
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def kill_leader(self) -> None:
        """Kill -9 whoever leads, once the one before is back."""
        self._run(self._kill_leader())

    async def _kill_leader(self) -> None:
        if self._dead is not None:
            await self._cluster.start(self._dead)
        leader = await self._cluster.leader()
        self._dead = leader.name
        await self._cluster.kill(leader.name)
        self.kills += 1

    def _run(self, coro: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coro, self._loop).result(_WITHIN_S)
