"""Work that takes more than one turn: sweeping a compaction, and history for watchers that lag.

Both go in steps with other callbacks between them, so that no request waits for the whole.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, final

from coord_server.failpoints import failpoint

if TYPE_CHECKING:
    from collections.abc import Callable

    from coord_server.mvcc.hub import WatchHub
    from coord_server.mvcc.store import Store

_SWEEP_STEP = failpoint("compact.step")


@final
class Chores:
    """The long work of a member; ``failed`` is told the error after which nothing more is done."""

    def __init__(
        self,
        store: Store,
        hub: WatchHub,
        *,
        sweep_keys: int,
        sweep_pause_s: float,
        catch_up_events: int,
        failed: Callable[[BaseException], None],
    ) -> None:
        self._store = store
        self._hub = hub
        self._sweep_keys = sweep_keys
        self._sweep_pause_s = sweep_pause_s
        self._catch_up_events = catch_up_events
        self._failed = failed
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sweeping = False
        self._begins = False
        self._catching_up = False

    def start(self) -> None:
        """Work on the running loop from now on."""
        self._loop = asyncio.get_running_loop()
        self._hub.wake = self.wake_hub
        self._store.on_compact = self._wake_sweep

    def stop(self) -> None:
        """Do nothing more."""
        self._loop = None

    def tick(self) -> None:
        """Begin a sweep that nobody has begun: of an earlier run, or of a state that was replaced."""
        if not self._sweeping and self._store.compacting:
            self._sweep()

    def _wake_sweep(self) -> None:
        if not self._begins and self._loop is not None:
            self._begins = True
            self._loop.call_soon(self._begin_sweep)

    def _begin_sweep(self) -> None:
        self._begins = False
        self.tick()

    def wake_hub(self) -> None:
        """Read history in the next turn."""
        if not self._catching_up and self._loop is not None:
            self._catching_up = True
            self._loop.call_soon(self._catch_up)

    def _sweep(self) -> None:
        loop = self._loop
        if loop is None:
            return
        try:
            _SWEEP_STEP()
            self._sweeping = self._store.compact_some(self._sweep_keys)
        except Exception as error:  # noqa: BLE001 - whatever it is, the state is unknown: stop
            self._failed(error)
            return
        if self._sweeping:
            loop.call_later(self._sweep_pause_s, self._sweep)

    def _catch_up(self) -> None:
        self._catching_up = False
        if self._loop is None:
            return
        try:
            more = self._hub.catch_up(self._catch_up_events)
        except Exception as error:  # noqa: BLE001 - see _sweep
            self._failed(error)
            return
        if more:
            self.wake_hub()
