"""The moment when a snapshot takes the place of a member's state, in memory as on disk.

Watchers go on where they were, from the history that the new state holds. Whoever waits for an answer
is told that the outcome is unknown: the entry may be in the snapshot, and its answer is not.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, final

from coord.runtime import invariant
from coord_server.storage.snapshot_file import BrokenSnapshot

if TYPE_CHECKING:
    from collections.abc import Callable

    from coord.runtime import Offload
    from coord_server.apply import Applier
    from coord_server.delivery import Delivery
    from coord_server.flusher import Flusher
    from coord_server.installation import Installation
    from coord_server.mvcc.hub import WatchHub
    from coord_server.raft import SnapshotMeta


@final
class StateReplacement:
    """Prepares the new state aside, and puts it in when raft says so."""

    def __init__(
        self,
        installation: Installation,
        applier: Applier,
        hub: WatchHub,
        delivery: Delivery,
        flusher: Flusher,
        offload: Offload,
    ) -> None:
        self._installation = installation
        self._applier = applier
        self._hub = hub
        self._delivery = delivery
        self._flusher = flusher
        self._offload = offload

    async def install(
        self, path: str, meta: SnapshotMeta, *, is_late: bool, take: Callable[[], bool]
    ) -> None:
        """Let ``take`` tell raft of the content at ``path``, which is ready then; the file is removed.

        To be called one at a time. ``take`` returns whether the member is still well. A content that
        cannot be read is left out: the leader sends another. Raises BackendError or OSError; the member
        is as it was then.
        """
        installation, run = self._installation, self._offload.run
        try:
            with contextlib.suppress(BrokenSnapshot):
                if not is_late:
                    await run(installation.prepare, path, meta)
                await self._flusher.pause()
                if take():
                    self._flusher.resume()
        finally:
            installation.forget()
            await run(installation.discard, path)

    def replace(self, meta: SnapshotMeta) -> None:
        """Put in what was prepared; nothing writes the backend meanwhile."""
        self._delivery.state_replaced()
        self._hub.before_replacement()
        self._installation.swap(meta)
        self._applier.reload()
        invariant(self._applier.applied_index == meta.index, "a snapshot holds what it says")
        self._hub.after_replacement()
