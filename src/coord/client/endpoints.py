"""The part of a client that tells where it stands: its endpoints, their health, and what everybody waits for."""

from __future__ import annotations

from typing import TYPE_CHECKING, overload

from coord.cluster import Cluster
from coord.explaining import explain_client, explain_name
from coord.maintenance import Maintenance
from coord.observing import Observer

if TYPE_CHECKING:
    from collections.abc import Callable

    from coord.coordination import Coordination
    from coord.core import Core
    from coord.explaining import ClientExplanation, NameExplanation
    from coord.transport.health import Connection


class EndpointCalls:
    """Endpoints, connection events and explanations of a :class:`coord.Client`."""

    _core: Core
    _home: Coordination

    @property
    def cluster(self) -> Cluster:
        """The membership of the cluster."""
        return Cluster(self._core)

    @property
    def maintenance(self) -> Maintenance:
        """Status, alarms, backups and space of the members."""
        return Maintenance(self._core)

    @property
    def connection(self) -> Connection:
        """How the client stands to its store now, endpoint by endpoint; a value that does not change by itself."""
        return self._core.carrier.health.read()

    def on_connection(self, callback: Callable[[Connection], object]) -> Callable[[], None]:
        """Call ``callback(connection)`` at each change, on the caller's loop; return what ends that.

        Changes that come faster than the callback returns are coalesced to the newest.
        Without a running loop the callback runs on a worker thread.
        An exception in it goes to the loop's exception handler, and does not end the subscription.
        Raises :class:`ForkedError`.
        """
        core = self._core
        observer: Observer[Connection] = Observer(core, callback)

        def tell() -> None:
            observer.tell(core.carrier.health.read())

        unregister: list[Callable[[], None]] = []

        def begin() -> None:
            if not observer.ended:
                unregister.append(core.carrier.health.watch(tell))

        def end() -> None:
            observer.ended = True
            core.runtime.post(lambda: [stop() for stop in unregister])

        core.runtime.post(begin)
        return end

    async def sync_endpoints(self, *, timeout: float | None = None) -> tuple[str, ...]:
        """Replace the endpoints by the client URLs of the cluster's voters that have started; return the new list.

        Connections to endpoints that stay are kept. Calls on one that left may go on for 5 s, then watches and
        sessions move to another endpoint, without a gap.
        ``timeout`` None means 5 seconds.
        A cluster that advertises nothing usable leaves the list as it is, and so do ``memory:`` and ``local:``.
        Raises :class:`EndpointMismatch` when the members advertise only plain URLs and the client uses TLS, or the
        other way round; the list then stays.
        """
        return await self._core.runtime.run(self._core.sync.once(timeout=timeout))

    @overload
    async def explain(self, name: None = None, *, timeout: float = 2.0) -> ClientExplanation: ...
    @overload
    async def explain(self, name: str | bytes, *, timeout: float = 2.0) -> NameExplanation: ...

    async def explain(
        self, name: str | bytes | None = None, *, timeout: float = 2.0
    ) -> ClientExplanation | NameExplanation:
        """Tell what is going on; ``print`` it, or look into its fields.

        Without a name: this client, its endpoints, sessions and watches; never fails for want of a store, which is
        asked for at most ``timeout`` seconds.
        With a name: which recipe its keys are those of, who holds it, or is there, who waits, and what the holder itself
        waits for; for queues how much is in them, and who works on what. See :class:`NameExplanation`.
        Raises then what reading raises.
        """
        if name is None:
            return await self._home.run(explain_client(self._home, timeout))
        return await self._home.run(explain_name(self._home, name, timeout))
