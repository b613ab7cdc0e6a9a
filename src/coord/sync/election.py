"""The twins of an election and its terms."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Literal

from coord import election
from coord.sync._portal import Iteration, Portal, Twin
from coord.sync.grants import Grant, Hold

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from coord.election import Leader


class Term(Grant[election.Term]):
    """Leadership, from its confirmation until it is resigned or lost; see :class:`coord.Term`."""

    __slots__ = ()

    def proclaim(self, value: str | bytes, *, timeout: float | None = None) -> int:
        """Publish a new value and return its revision. Raises :class:`coord.LeadershipLost` when the term is over."""
        return self._portal.call(self._async.proclaim(value, timeout=timeout))

    @property
    def stop_by(self) -> float:
        """When work that only a leader may do has to have stopped, in monotonic seconds of this machine."""
        return self._async.stop_by

    def transfer(
        self, to: str | bytes, *, patience: float = 5.0, timeout: float | None = None
    ) -> Leader | None:
        """Hand leadership on to the candidate with the key ``to``, and return who leads then; None if nobody does.

        See :meth:`coord.Term.transfer`. Raises :class:`coord.NoCandidate`, :class:`coord.TransferTimeout`.
        """
        return self._portal.call(self._async.transfer(to, patience=patience, timeout=timeout))

    def resign(self) -> bool:
        """Step down; False if leadership had been lost before. The same as :meth:`release`."""
        return self._portal.call(self._async.resign())


class Election(Twin[election.Election]):
    """A named election; see :class:`coord.Election`. Made by ``client.election(name)``."""

    __slots__ = ()

    @property
    def name(self) -> bytes:
        """The name, as it stands in the store."""
        return self._async.name

    def campaign(self, value: str | bytes = b"", *, timeout: float | None = None) -> Term:
        """Wait to become the leader, publishing ``value``, and return the term.

        Raises :class:`coord.CampaignTimeout` after ``timeout`` seconds, :class:`coord.SessionExpired` as soon as the
        session ends. A campaign that fails, or that Ctrl-C ends, withdraws the candidacy.
        """
        term = self._portal.obtain(
            lambda: self._async.campaign(value, timeout=timeout), election.Term.discard
        )
        return Term(self._portal, term)

    def lead(self, value: str | bytes = b"", *, timeout: float | None = None) -> Hold[Term]:
        """Return a ``with`` for one term; see :class:`Hold`."""
        return Hold(lambda: self.campaign(value, timeout=timeout))

    def leader(self, *, timeout: float | None = None) -> Leader:
        """Return the present leader, as of now (linearizable). Raises :class:`coord.NoLeader`."""
        return self._portal.call(self._async.leader(timeout=timeout))

    def candidates(self, *, timeout: float | None = None) -> tuple[Leader, ...]:
        """Return the leader and those who wait, in order of succession."""
        return self._portal.call(self._async.candidates(timeout=timeout))

    def observe(self) -> Iteration[Leader | None]:
        """Iterate over the leader now, and again at each change of leader or value; None while there is none.

        Close the iterator, or use it in a ``with``.
        """
        return Iteration(self._portal, self._async.observe())

    def run(
        self,
        fn: Callable[[Term], object],
        *,
        value: str | bytes = b"",
        rejoin: bool = True,
        on_error: Literal["raise", "rejoin"] = "rejoin",
        on_overrun: Callable[[Term], object] | Literal["exit"] | None = None,
    ) -> None:
        """Campaign, call ``fn(term)`` on this thread while leading, and again after it has ended.

        As :meth:`coord.Election.run`, with one difference: a thread cannot be cancelled, so ``fn`` has to look at
        ``term.lost`` and return soon after it is set. Only when it has returned a new campaign begins.
        ``on_overrun(term)`` is called, on a worker thread, when ``fn`` still runs after ``term.stop_by``; by default that
        is logged, and ``"exit"`` ends the process.
        Ctrl-C in ``fn`` or between terms resigns and is raised.
        """
        portal = self._portal
        stage = _Stage(portal)

        def overrun(term: election.Term) -> None:
            if callable(on_overrun):
                portal.in_background(
                    portal.runtime.env.offload.run(on_overrun, Term(portal, term)),
                    name="election-overrun",
                )

        stage.play(
            fn,
            lambda: self._async.run(
                stage.perform,
                value=value,
                rejoin=rejoin,
                on_error=on_error,
                on_overrun=overrun if callable(on_overrun) else on_overrun,
            ),
        )


class _Scene:
    """One call of the function: asked for on the loop, made by the thread, answered on the loop."""

    def __init__(self, term: election.Term) -> None:
        self.term = term
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def end(self, error: Exception | None) -> None:
        if self.over.done():
            return
        if error is None:
            self.over.set_result(None)
        else:
            self.over.set_exception(error)


class _Stage:
    """Lets a coroutine on the client's loop call a function on the thread that waits for the coroutine."""

    def __init__(self, portal: Portal) -> None:
        self._portal = portal
        self._scenes: asyncio.Queue[_Scene | None] = asyncio.Queue()
        self._scene: _Scene | None = None
        self._deserted = False
        self._error: BaseException | None = None

    async def perform(self, term: election.Term) -> None:
        """Have the function called with ``term``; returns when it really has, however often it is cancelled."""
        if self._deserted:
            return
        scene = self._scene = _Scene(term)
        self._scenes.put_nowait(scene)
        cancelled: asyncio.CancelledError | None = None
        while not scene.over.done():
            try:
                await asyncio.wait({scene.over})
            except asyncio.CancelledError as error:
                cancelled = error
        failure = scene.over.exception()
        if cancelled is not None:
            raise cancelled from failure
        if failure is not None:
            raise failure

    def play(
        self, fn: Callable[[Term], object], make: Callable[[], Coroutine[object, object, None]]
    ) -> None:
        """Run ``make()`` on the loop and the function here; returns when the coroutine has ended, with its outcome."""
        portal = self._portal
        driver = portal.call(self._begin(make))
        try:
            while (scene := portal.call(self._scenes.get())) is not None:
                self._act(scene, fn)
        except BaseException:
            # Ctrl-C. The function does not run any more, or never began.
            portal.runtime.post(lambda: self._desert(driver))
            portal.call(_ended(driver))
            raise
        if self._error is not None:
            raise self._error

    def _desert(self, driver: asyncio.Task[None]) -> None:
        """End it all without the thread. On the loop."""
        self._deserted = True
        driver.cancel()
        if self._scene is not None:
            self._scene.end(None)

    def _act(self, scene: _Scene, fn: Callable[[Term], object]) -> None:
        error: Exception | None = None
        try:
            fn(Term(self._portal, scene.term))
        except Exception as raised:  # noqa: BLE001 - the election decides what becomes of it
            error = raised
        self._portal.runtime.post(lambda: scene.end(error))

    async def _begin(
        self, make: Callable[[], Coroutine[object, object, None]]
    ) -> asyncio.Task[None]:
        return self._portal.core.supervisor.spawn(self._drive(make), name="election-run")

    async def _drive(self, make: Callable[[], Coroutine[object, object, None]]) -> None:
        try:
            await make()
        except asyncio.CancelledError:
            self._error = (
                self._portal.runtime.stopped_error()
            )  # nobody else cancels us and reads it
            raise
        except Exception as error:  # noqa: BLE001 - raised again on the thread that waits
            self._error = error
        finally:
            self._scenes.put_nowait(None)


async def _ended(task: asyncio.Task[None]) -> None:
    await asyncio.wait({task})
