"""A client of one store: its life, and its parts put together."""

from __future__ import annotations

import sys
import warnings
from typing import TYPE_CHECKING, Self

from typing_extensions import override

from coord.cache import Mirrors
from coord.client.auth import AuthCalls
from coord.client.cells import CellCalls
from coord.client.cluster import ClusterCalls
from coord.client.endpoints import EndpointCalls
from coord.client.gates import GateCalls
from coord.client.jobs import JobCalls
from coord.client.keys import KeyCalls
from coord.client.leases import LeaseCalls
from coord.client.live import LiveCalls
from coord.client.locks import LockCalls
from coord.client.queues import QueueCalls
from coord.client.recipes import RecipeCalls
from coord.client.registry import RegistryCalls
from coord.client.shares import ShareCalls
from coord.client.views import ViewCalls
from coord.coordination import Coordination
from coord.errors import ClientClosed
from coord.runtime import finish

if TYPE_CHECKING:
    from types import TracebackType

    from coord.client.connecting import Connecting
    from coord.core import Core

CLOSE_WITHIN_S = 30.0


class Client(
    KeyCalls,
    LeaseCalls,
    RecipeCalls,
    ClusterCalls,
    EndpointCalls,
    AuthCalls,
    ViewCalls,
    GateCalls,
    ShareCalls,
    LockCalls,
    CellCalls,
    LiveCalls,
    QueueCalls,
    JobCalls,
    RegistryCalls,
):
    """A client of one store. Made by :func:`connect`; usable from any thread and any number of event loops at once.

    Every call takes ``timeout=`` in seconds, None meaning the client's ``request_timeout``, and raises of
    :mod:`coord.errors`: :class:`Unavailable` (certainly nothing happened), :class:`AmbiguousResult` (a write may have
    happened), :class:`CoordTimeout`, :class:`RequestRefused` and its children, :class:`ClientClosed`, and in a forked
    child :class:`ForkedError`.
    Cancelling a call cancels it on the wire; a write may then have been applied or not.

    Keys and values are bytes; text is encoded as UTF-8.
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        self._home = Coordination(core)
        self._mirrors = Mirrors(core)
        self._closed = False

    @override
    def __repr__(self) -> str:
        """Show the name and where the store is."""
        state = " closed" if self._closed else ""
        return f"<coord.Client {self._core.name!r} on {', '.join(self.endpoints)}{state}>"

    def __del__(self) -> None:
        """Warn about a client that nobody closed, and stop its thread."""
        # Missing when construction failed.
        core: Core | None = getattr(self, "_core", None)
        if core is None or self._closed or core.runtime.is_forked or sys.is_finalizing():
            return
        warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
        core.abandon()

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The endpoints that this client uses."""
        return self._core.transport.endpoints

    async def __aenter__(self) -> Self:
        """Close the client at the end of the block."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the client."""
        await self.close()

    async def close(self) -> None:
        """End sessions, watches and connections, and stop the client's thread.

        Locks that are still held go with their sessions, whose leases are revoked.
        A server that does not answer holds it up by 5 seconds at most, however much is open; leases then end by their
        TTL, and nothing of the client is left here.
        From any loop, and as often as you like; a second call returns when the first has finished.
        A cancelled call finishes first.
        """
        self._closed = True
        core = self._core
        if core.runtime.is_forked:
            return  # everything belongs to the parent, who goes on using it
        await finish(_close(core), within=CLOSE_WITHIN_S)

    def after_fork(self) -> Connecting:
        """Return a fresh connection with the configuration of this client, for a forked child.

        Not with ``transport="grpcio"``: what gRPC has made in a process works in no child of it.
        """
        from coord.client.connecting import Connecting  # it makes clients

        return Connecting(self._core.options)


async def _close(core: Core) -> None:
    """Close ``core`` and end its runtime, from any loop."""
    try:
        await core.runtime.run(core.close())
    except ClientClosed:
        pass  # somebody else has closed it, and its thread has ended
    finally:
        await core.runtime.aclose()
