"""What a schedule's processes are made of, and what a recipe says about them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Coroutine
from contextvars import Context
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast

import coord
from coord.client.client import Client
from coord.core import Core, Options
from coord.errors import ForkedError
from coord.grants import Grant
from coord.runtime import Env, Runtime, start_task
from coord.session import Session
from coord.target import Target, TargetKind
from coord.ways import Ways
from tests.exploration.clockwork import PROCESS, DriftingClock, Here, SeededRand
from tests.exploration.faults import OF_WORLD, Fault
from tests.exploration.network import Carrier
from tests.exploration.store import Change

if TYPE_CHECKING:
    from tests.exploration.world import World

T = TypeVar("T")

TTL_S = 5
REQUEST_TIMEOUT_S = 1.5
HORIZON_S = 4.0
"""Faults begin in this time; from then on everything works."""
PATIENCE_S = 22.0
"""How long after that everybody must have got what they wait for: less than the waiter's recheck."""
SLACK_S = 0.05
"""What a call may take beyond its timeout: a few messages."""
EXPLAIN_S = 0.5
"""What an error may take to find out who was in the way."""
_CANCEL_RATE = 0.12
_TURNS = (0, 1, 2, 3, 5)
_CANCEL_AFTER_S = (0.001, 0.002, 0.004, 0.006, 0.01, 0.05, 0.3, 1.0)


class Violation(AssertionError):
    """Something that must not happen has happened. ``rule`` is one word."""

    def __init__(self, rule: str, text: str) -> None:
        super().__init__(f"{rule}: {text}")
        self.rule = rule


class Cancelled:
    """The outcome of a call that was cancelled."""


CANCELLED = Cancelled()


class _Ways(Ways):
    """The way to the one store there is."""

    def __init__(self, carrier: Carrier, target: Target) -> None:
        self.target = target
        self.carrier = carrier
        self.transport = carrier
        self._identity = None


@dataclass(eq=False, slots=True)
class Holding:
    """What a process believes to hold. ``about`` is for the rule that says which exclude each other."""

    process: Process
    grant: Grant
    about: Any
    keys: tuple[bytes, ...]
    """All that it stands on: it is lost with any of them."""
    released: bool = False
    """Whether its holder has begun to give it back."""


class Process:
    """One process: a client of its own, a clock that drifts, and at most one session that its tasks share."""

    def __init__(self, world: World, number: int) -> None:
        rand = world.rand
        self.world = world
        self.number = number
        self.rand = rand
        self.skew = rand.choice((0.0, 0.0, rand.uniform(-0.2, 0.2)))
        rate = rand.choice((1.0, 1.0, 0.995, 1.005))
        env = Env(
            clock=DriftingClock(world.loop, rate, self.skew),
            net=cast(Any, None),
            rand=SeededRand(random.Random(rand.getrandbits(64))),
            offload=Here(),
        )
        target = Target(kind=TargetKind.ENDPOINTS, endpoints=())
        options = Options(
            target=target,
            request_timeout=REQUEST_TIMEOUT_S,
            placement="inline",
            name=f"p{number}",
        )
        runtime = Runtime.inline(env, forked=ForkedError, stopped=coord.ClientClosed)
        core = Core(
            options, runtime, _Ways(Carrier(world.network, number, env.clock), target), None
        )
        spawn = core.supervisor.spawn

        def spawn_here(
            coro: Coroutine[Any, Any, T], *, name: str, context: Context | None = None
        ) -> asyncio.Task[T]:
            if context is not None:  # an empty one: it still belongs to us
                context.run(PROCESS.set, number)
            return spawn(coro, name=name, context=context)

        core.supervisor.spawn = spawn_here  # type: ignore[method-assign]
        self.core = core
        self.client = Client(core)
        self.sessions: list[Session] = []
        self.opening = asyncio.Lock()
        self.is_closed = False
        self.stopped_s = 0.0

    # -- for bodies ------------------------------------------------------------------------------------------------

    async def session(self) -> Session | None:
        """Return a session that lives, opened if need be; None when the client has been closed."""
        async with self.opening:
            while not self.is_closed:
                if self.sessions and self.sessions[-1].valid_for() > 0:
                    return self.sessions[-1]
                session = self.client.session(ttl=TTL_S)
                opened = await self.call("open", session.open())
                if isinstance(opened, Session):
                    self.sessions.append(opened)
                elif isinstance(opened, coord.CoordError):
                    await asyncio.sleep(0.1)
            return None

    async def think(self, most: float = 0.5) -> None:
        """Let some time pass, often none."""
        pause = self.rand.choice((0.0, 0.001, 0.002, 0.01, 0.1, most))
        if pause:
            await asyncio.sleep(pause)

    async def call(
        self,
        what: str,
        coro: Awaitable[T],
        *,
        limit: float | None = None,
        cancel_within: float = SLACK_S,
    ) -> T | coord.CoordError | Cancelled:
        """Make a call, which may be cancelled, and return its outcome; errors of ours are outcomes.

        ``limit``: the timeout that it was given. ``cancel_within``: how long it may go on when it is cancelled.
        """
        world = self.world
        loop = world.loop
        began, stopped = loop.now, self.stopped_s
        world.network.note(self.number, f"call {what}", limit)
        outcome: T | coord.CoordError | Cancelled
        cancel_at: list[float] = []
        try:
            if world.plan.on and self.rand.random() < _CANCEL_RATE:
                outcome = await self._call_cancelled(what, coro, cancel_at)
            else:
                outcome = await coro
        except coord.CoordError as error:
            outcome = error
        world.network.note(self.number, f"end {what}", _brief(outcome))
        spent = loop.now - began - (self.stopped_s - stopped)
        if limit is not None and spent > limit + SLACK_S + EXPLAIN_S:
            raise Violation("deadline", f"{what} with a timeout of {limit} s took {spent:.3f} s")
        if cancel_at and isinstance(outcome, Cancelled):
            late = loop.now - cancel_at[0] - (self.stopped_s - stopped)
            if late > cancel_within:
                raise Violation("cancel", f"{what} ended {late:.3f} s after it was cancelled")
        return outcome

    async def _call_cancelled(
        self, what: str, coro: Awaitable[T], at: list[float]
    ) -> T | coord.CoordError | Cancelled:
        rand, loop = self.rand, self.world.loop
        turns = rand.choice(_TURNS) if rand.random() < 0.4 else -1
        after = rand.choice(_CANCEL_AFTER_S)
        if not self.world.plan.take(Fault.CANCEL, loop.now, f"{self.number} {what}"):
            return await coro
        task = start_task(cast("Coroutine[Any, Any, T]", coro), name=what)

        def cancel(turns: int) -> None:
            if turns > 0:
                loop.call_soon(cancel, turns - 1)
            elif not task.done():
                at.append(loop.now)
                task.cancel()

        timer = None
        if turns >= 0:
            loop.call_soon(cancel, turns)
        else:
            timer = loop.call_later(after, cancel, 0)
        try:
            return await task
        except asyncio.CancelledError:
            if not at:
                raise  # not ours
            return CANCELLED
        finally:
            if timer is not None:
                timer.cancel()

    def hold(
        self, grant: Grant, group: str, about: object = None, *, keys: tuple[bytes, ...] = ()
    ) -> Holding:
        """Note a grant, and see whether it may be."""
        return self.world.granted(Holding(self, grant, about, keys or (grant.key,)), group)

    # -- what befalls it -------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Close the client, and with it its sessions."""
        self.is_closed = True
        await self.client.close()


class Scenario:
    """What the processes of one recipe do. Made anew for each schedule."""

    name: str = ""
    processes: int = 3
    bodies: tuple[int, ...] = (0, 1, 2)
    """For each task the process that it runs in."""
    prefix: bytes = b"x"
    """What the recipe's keys begin with."""
    faults: tuple[Fault, ...] = OF_WORLD
    keeps_watching: bool = False
    """Whether objects that clients make watch for as long as these live."""
    leaves_keys: bool = False
    """Whether keys under the prefix may stay when all have finished."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.rand = world.rand

    async def body(self, process: Process, task: int) -> None:
        """Do what one task does, until it is done."""
        raise NotImplementedError

    def exclude(self, one: Holding, other: Holding) -> bool:
        """Say whether two grants of one group must not be valid at the same time."""
        del one, other
        return True

    def deletable(self) -> list[bytes]:
        """Return the keys that an operator may delete."""
        return [key for key in self.world.store.keys(self.prefix) if self.world.store.lease_of(key)]

    def stays(self, key: bytes) -> bool:
        """Say whether a key may stay although nobody uses it."""
        del key
        return self.leaves_keys

    def is_told(self, context: dict[str, Any]) -> bool:
        """Say whether this is what an application is to be told by the loop's exception handler."""
        del context
        return False

    def judge(self, changes: list[Change]) -> None:
        """Judge what the store went through. Raises :class:`Violation` or ``AssertionError``."""


async def awaited(opening: object) -> object:
    """Await what is awaited only by its own ``__await__``."""
    return await opening  # type: ignore[misc]


def _brief(outcome: object) -> str:
    return type(outcome).__name__
