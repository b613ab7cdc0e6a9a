"""What sessions and recipes share within one client: the renewals, the open sessions, and a place for clean-ups."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, TypeVar

from coord.errors import ClientClosed, CoordError, ForkedError
from coord.names import Names
from coord.notices import RightsWarning, notice
from coord.renewal import RenewalPool
from coord.runtime import ForkedRuntime
from coord.session import Session

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from coord.core import Core
    from coord.runtime.placement import Runtime
    from coord.runtime.seams import Env
    from coord.store.lease import Leases
    from coord.store.txn import TxnRunner
    from coord.store.watch import WatchMux

T = TypeVar("T")


class Coordination:
    """The coordination half of a client. Its methods say on which loop they may be called."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self.runtime: Runtime = core.runtime
        self.env: Env = core.env
        self.txn: TxnRunner = core.txn
        self.leases: Leases = core.leases
        self.watches: WatchMux = core.watches
        self.renewals: RenewalPool = RenewalPool(core.transport, core.env, core.supervisor)
        self.sessions: dict[Session, None] = {}
        """Open sessions, in the order of their opening; closed with the client."""
        self._names = Names() if core.options.debug else None
        self.may_fence: bool = True
        """Whether the store lets us write the create fences, below ``_coord/`` (C5)."""
        self._default: Session | None = None
        self._default_lock = asyncio.Lock()
        core.at_close(self._close_sessions)

    async def run(
        self, coro: Coroutine[Any, Any, T], *, discard: Callable[[T], None] | None = None
    ) -> T:
        """Run ``coro`` on the runtime's loop, from any loop. Raises :class:`ForkedError`, :class:`ClientClosed`."""
        if self.core.closing.is_set():
            coro.close()
            raise ClientClosed
        try:
            return await self.runtime.run(coro, discard=discard)
        except ForkedRuntime as error:
            raise ForkedError(str(error)) from None

    async def session_or_default(self, session: Session | None) -> Session:
        """Return ``session`` itself, or the client's default one, opened when first needed. On the runtime's loop.

        An expired default session is replaced; what was held through it stays lost.
        """
        if session is not None:
            return session
        current = self._default
        if current is not None and current.valid_for() > 0:
            return current
        async with self._default_lock:
            current = self._default
            if current is None or current.valid_for() <= 0:
                current = Session(self, name="default")
                await current.open()
                self._default = current
            return current

    def claim(self, name: bytes) -> bytes:
        """Return a recipe's name. In debug mode raises :class:`NameConflict` (C1)."""
        if self._names is not None:
            self._names.claim(name)
        return name

    def own(self, name: bytes, part: bytes) -> None:
        """Let the recipe ``name`` use a recipe called ``name + part`` itself, as a part of its own."""
        if self._names is not None:
            self._names.own(name, part)

    def go_without_fences(self) -> None:
        """Note, and say once, that the store denies the keys of the create fences (C17)."""
        if self.may_fence:
            self.may_fence = False
            notice(
                RightsWarning(
                    "the store denies access to keys below '_coord/': locks and elections stay correct, but what a"
                    " lost answer leaves behind may block others for up to a third of the TTL; grant this user"
                    " readwrite on the prefix '_coord/'"
                )
            )

    def background(
        self, coro: Coroutine[Any, Any, object], *, name: str
    ) -> asyncio.Task[object] | None:
        """Start ``coro`` on the runtime's loop (from there only); None when the client no longer takes any."""
        try:
            return self.core.supervisor.spawn(coro, name=name)
        except RuntimeError:  # the client has closed meanwhile: leases end by their TTL
            return None

    @staticmethod
    async def ended(task: asyncio.Task[T]) -> T:
        """Wait for a task of :meth:`background`, which goes on when the caller is cancelled, and return its outcome.

        Raises :class:`ClientClosed` when the client's end has cancelled it, which is no cancellation of the caller.
        """
        await asyncio.wait({task})
        if task.cancelled():
            raise ClientClosed
        return task.result()

    async def pause(self, low: float, high: float) -> None:
        """Sleep for a random time between two bounds, in seconds."""
        await asyncio.sleep(self.env.rand.uniform(low, high))

    async def _close_sessions(self) -> None:
        async with asyncio.TaskGroup() as group:
            for session in list(self.sessions):
                group.create_task(self._close_session(session))

    @staticmethod
    async def _close_session(session: Session) -> None:
        with contextlib.suppress(CoordError):
            await session.shut()
