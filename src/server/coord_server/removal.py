"""What a member does that has been removed: it says so, and ends (etcd ops: "Signals, shutdown, exit codes").

It learns of it from the log, or, when it was away meanwhile, from any peer that it calls: nobody sends it
the log any more. Its id never returns, so there is nothing to wait for but that the others know of it too.
Until one of them says so, this member may be the only one that knows that the removal is committed, and the
others may need to hear that from it (`coord_server.departure`).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, final

if TYPE_CHECKING:
    from collections.abc import Callable

    from coord_server.log import Log
    from coord_server.state import State

# Whoever asked this very member for the removal gets the answer.
LINGER_S: Final = 1.0
# If no peer ever says so: they are all gone, or have forgotten by now who this was.
LINGER_ALONE_S: Final = 300.0


@final
class Removal:
    """Tells the owner of the process once, ``LINGER_S`` after a peer has said that it was removed."""

    def __init__(self, state: State, log: Log, *, data_dir: str, told: Callable[[], None]) -> None:
        self._members = state.applier.members
        self._identity = state.identity
        self._log = log
        self._data_dir = data_dir
        self._told = told
        self._is_noticed = False
        self._is_confirmed = False
        self._timer: asyncio.TimerHandle | None = None
        self._members.listen(self._look)

    def _look(self) -> None:
        if self._members.is_removed(self._identity.member_id):
            self._notice()

    def confirmed(self) -> None:
        """Hear from a peer that this member is one no longer."""
        self._notice()
        if not self._is_confirmed:
            self._is_confirmed = True
            self._end_in(LINGER_S)

    def _notice(self) -> None:
        if self._is_noticed:
            return
        self._is_noticed = True
        self._log.warning(
            "the member has been permanently removed from the cluster",
            local_member_id=f"{self._identity.member_id:x}",
            cluster_id=f"{self._identity.cluster_id:x}",
        )
        self._log.warning("data-dir used by this member must be removed", data_dir=self._data_dir)
        self._end_in(LINGER_ALONE_S)

    def _end_in(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, self._told)
