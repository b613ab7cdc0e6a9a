"""The processes of one schedule, what befalls them, and what must be true of every recipe at the end.

A recipe's :class:`Scenario` says what its processes do, and judges what the store went through. The world adds what holds
for all: calls end in time, holders exclude each other, nobody is forgotten, nothing of ours stays behind, nothing leaks.
"""

from __future__ import annotations

import asyncio
import gc
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast
from unittest.mock import patch

import coord
from coord.errors import ForkedError
from coord.recipes.partitioner import engine
from coord.runtime import placement, start_task
from tests.exploration.clockwork import PROCESS, Clockwork, Stuck
from tests.exploration.faults import OF_WORLD, Fault, Plan
from tests.exploration.network import Network
from tests.exploration.process import (
    HORIZON_S,
    PATIENCE_S,
    REQUEST_TIMEOUT_S,
    TTL_S,
    Holding,
    Process,
    Scenario,
    Violation,
)
from tests.exploration.store import ADMIN, Store

T = TypeVar("T")


@dataclass(slots=True)
class World:
    """One schedule."""

    seed: int
    without: frozenset[int]
    make: Callable[[World], Scenario]
    rand: random.Random = field(init=False)
    loop: Clockwork = field(init=False)
    plan: Plan = field(init=False)
    store: Store = field(init=False)
    network: Network = field(init=False)
    scenario: Scenario = field(init=False)
    processes: list[Process] = field(init=False, default_factory=list[Process])
    holdings: dict[str, list[Holding]] = field(init=False, default_factory=dict[str, list[Holding]])
    failures: list[BaseException] = field(init=False, default_factory=list[BaseException])
    calm: asyncio.Event = field(init=False)
    calm_at: float = field(init=False, default=0.0)
    _stops: dict[int, Callable[[], None]] = field(
        init=False, default_factory=dict[int, Callable[[], None]]
    )

    def __post_init__(self) -> None:
        """Make the parts, each with draws of its own: what one draws does not change the others'."""
        # Whatever is left out, the processes draw the same.
        self.rand = random.Random(self.seed)
        self.loop = Clockwork(random.Random(self.seed ^ 0x5EED1))
        self.plan = Plan(random.Random(self.seed ^ 0x5EED2), self.without)
        self.store = Store(self.loop, self._on_expired)
        self.network = Network(
            self.loop,
            self.store,
            self.plan,
            random.Random(self.seed ^ 0x5EED3),
        )
        self.calm = asyncio.Event()

    def run(self) -> None:
        """Run the schedule. Raises :class:`Violation`, or whatever else shows that something is wrong."""
        loop = self.loop
        loop.set_exception_handler(self._on_exception)
        # A collection in the middle would end forgotten objects at a moment that no seed knows.
        collects = gc.isenabled()
        gc.disable()
        try:
            # Members of a group are named by this, and who gets what depends on the names.
            with patch.object(engine, "process_identity", return_value=("host", 1)):
                loop.run_until_complete(self._main())
        finally:
            _end(loop)
            for process in self.processes:
                process.client._closed = (
                    True  # a failed schedule closes nothing, and need not hear of it
                )
            if collects:
                gc.enable()
        if self.failures:
            raise self.failures[0]
        self.scenario.judge(self.store.changes)

    def _on_expired(self, lease_id: int) -> None:
        """See that nobody takes for valid what has ended (spec recipes 2)."""
        for process in self.processes:
            for session in process.client._home.sessions:
                if session.lease_id == lease_id and session.valid_for() > 0:
                    self.failures.append(
                        Violation(
                            "expiry", f"valid for {session.valid_for():.3f} s after its lease"
                        )
                    )

    def _on_exception(self, _: object, context: dict[str, Any]) -> None:
        if self.scenario.is_told(context):
            return
        error = context.get("exception")
        self.failures.append(
            error if isinstance(error, BaseException) else Violation("heard", context["message"])
        )

    # -- the course of a schedule ----------------------------------------------------------------------------------

    async def _main(self) -> None:
        self.scenario = self.make(self)
        for number in range(self.scenario.processes):
            token = PROCESS.set(number)
            self.processes.append(Process(self, number))
            PROCESS.reset(token)
        bodies = [self._start(number, task) for task, number in enumerate(self.scenario.bodies)]
        self._plan_trouble()
        self.loop.call_at(self.loop.now + HORIZON_S, self._begin_calm, context=self.network.context)
        await self._finish(bodies)
        self._begin_calm()
        await self._settle()
        await self._close()

    def _start(self, number: int, task: int) -> asyncio.Task[None]:
        body = self.scenario.body(self.processes[number], task)
        return self.start_in(number, body, f"body-{task}")

    def start_in(self, number: int, coro: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Start a task in a process."""
        token = PROCESS.set(number)
        try:
            return start_task(coro, name=name)
        finally:
            PROCESS.reset(token)

    async def _finish(self, bodies: list[asyncio.Task[None]]) -> None:
        """Wait for the bodies; how long that may take, begins with the calm."""
        left: set[asyncio.Task[None]] = set(bodies)
        until = self.loop.now + HORIZON_S + PATIENCE_S
        try:
            while left and not self.failures:
                done, left = await asyncio.wait(
                    left,
                    timeout=max(0.0, until - self.loop.now),
                    return_when=asyncio.FIRST_COMPLETED,
                )
                for task in done:
                    task.result()
                if not done and left:
                    where = "; ".join(f"{t.get_name()} {_where(t)}" for t in left)
                    raise Violation("stuck", f"{PATIENCE_S:g} s after the last fault: {where}")
        finally:
            for task in left:
                task.cancel()

    def _begin_calm(self) -> None:
        if self.calm.is_set():
            return
        self.plan.on = False
        self.calm_at = self.loop.now
        self.calm.set()
        self.network.cut_off.clear()
        for process in self.processes:
            self._continue(process)

    async def until_calm(self, more: float = 0.0) -> None:
        """Return so many seconds after the last fault."""
        await self.calm.wait()
        await asyncio.sleep(max(0.0, self.calm_at + more - self.loop.now))

    async def _settle(self) -> None:
        """Give what is under way and what goes on in the background its time; then nothing of ours may be left."""
        if self.plan.taken:
            # What was sent without an answer before the calm began is given up and sent again within this time.
            await asyncio.sleep(REQUEST_TIMEOUT_S + 0.7)
            await asyncio.sleep(max(0.0, self.network.quiet_from - self.loop.now))
        await asyncio.sleep(0.3)
        living = {
            session.lease_id
            for process in self.processes
            for session in process.client._home.sessions
            if session.valid_for() > 0
        }
        for key in self.store.keys(self.scenario.prefix):
            lease = self.store.lease_of(key)
            if (not lease or lease in living) and not self.scenario.stays(key):
                raise Violation(
                    "orphan", f"{key!r} (lease {lease:x}) is left although nobody uses it"
                )
        for process in self.processes:
            if len(process.core.watches) and not self.scenario.keeps_watching:
                feeds = [feed.spec.key for feed in process.core.watches.feeds()]
                raise Violation("watches", f"process {process.number} still watches {feeds}")

    async def _close(self) -> None:
        for process in self.processes:
            token = PROCESS.set(process.number)
            try:
                await process.close()
            finally:
                PROCESS.reset(token)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        me = asyncio.current_task()
        tasks = [task.get_name() for task in asyncio.all_tasks(self.loop) if task is not me]
        if tasks:
            raise Violation("tasks", f"left after all clients were closed: {tasks}")
        timers = [
            timer
            for timer in self.loop.timers()
            if cast(Any, timer)._context.get(PROCESS) is not None
        ]
        if timers:
            raise Violation("timers", f"left after all clients were closed: {timers}")
        if self.network.streams or self.store.watches:
            raise Violation("streams", "left after all clients were closed")
        lessor = self.store.lessor
        # What could not be revoked ends by itself.
        await asyncio.sleep(max([lessor.granted_ttl(i) + 1.0 for i in lessor.ids()], default=0.0))
        for key in self.store.keys(self.scenario.prefix):
            lease = self.store.lease_of(key)
            if lease:
                raise Violation("lease", f"{key!r} outlives the sessions")

    # -- trouble ---------------------------------------------------------------------------------------------------

    def _plan_trouble(self) -> None:
        rand = self.plan._rand
        for _ in range(rand.choice((0, 0, 1, 1, 2, 3, 5))):
            fault = rand.choice(OF_WORLD)
            at = round(HORIZON_S * rand.random() ** 2, 3)
            draws = (rand.random(), rand.random())
            if fault in self.scenario.faults:
                at += self.loop.now
                self.loop.call_at(at, self._trouble, fault, *draws, context=self.network.context)

    def _trouble(self, fault: Fault, which: float, much: float) -> None:
        if not self.plan.on:
            return
        process = self.processes[int(which * len(self.processes))]
        keys = self.scenario.deletable() if fault is Fault.DELETE else []
        sessions = [s for s in process.sessions if s.lease_id] if fault is Fault.REVOKE else []
        if (fault is Fault.DELETE and not keys) or (fault is Fault.REVOKE and not sessions):
            return
        if not self.plan.take(fault, self.loop.now, str(process.number)):
            return
        self.network.note(process.number, fault.value)
        match fault:
            case Fault.CUT:
                self.network.cut_streams(process.number)
            case Fault.COMPACT:
                self.store.compact(int(much * 3))
            case Fault.REVOKE:
                self.store.revoke(sessions[-1].lease_id)
            case Fault.DELETE:
                self.store.delete(keys[int(which * len(keys))])
            case Fault.PAUSE:
                self._stop(process, round(much**2 * 1.6 * TTL_S, 3))
            case Fault.PARTITION:
                self._cut_off(process, round(much**2 * 1.6 * TTL_S, 3))
            case Fault.CLOSE:
                if not self.loop.is_stopped(process.number):
                    context = self.network.context.copy()
                    context.run(PROCESS.set, process.number)
                    start_task(process.close(), name="close", context=context)
            case Fault.FORK:
                self._fork(process)
            case _:
                raise NotImplementedError(fault)

    def _stop(self, process: Process, seconds: float) -> None:
        if self.loop.is_stopped(process.number):
            return
        self.loop.stop_process(process.number)
        began = self.loop.now

        def go_on() -> None:
            if self.loop.is_stopped(process.number):
                process.stopped_s += self.loop.now - began
                self.loop.continue_process(process.number)

        self._stops[process.number] = go_on
        self.network.later(seconds, go_on)

    def _continue(self, process: Process) -> None:
        go_on = self._stops.pop(process.number, None)
        if go_on is not None:
            go_on()

    def _cut_off(self, process: Process, seconds: float) -> None:
        self.network.cut_off[process.number] = round(self.loop.now + seconds, 3)

    def _fork(self, process: Process) -> None:
        """Use the client as a forked child would: it raises, and nothing is sent.

        Of a child's memory there is no copy here, so only what changes nothing in it can be tried; the rest is for
        real forks (``tests/sdk/test_fork_processes.py``).
        """
        before = self.network.requests
        mine = placement._process.pid
        placement._process.pid = -1
        use = process.client.get("x")
        try:
            use.send(None)
        except (ForkedError, coord.ClientClosed):
            return
        finally:
            use.close()
            placement._process.pid = mine
        raise Violation(
            "fork", f"a forked child has sent {self.network.requests - before} requests"
        )

    # -- grants ----------------------------------------------------------------------------------------------------

    def granted(self, new: Holding, group: str) -> Holding:
        """Note a grant. Raises when it cannot be."""
        held = self.holdings.setdefault(group, [])
        if new.grant.valid_for() > 0:
            for other in held:
                if (
                    self.scenario.exclude(new, other)
                    and other.grant.valid_for() > 0
                    and not (self._tampered(other) or self._tampered(new))
                ):
                    raise Violation(
                        "exclusion",
                        f"{new.process.number} has got token {new.grant.token} while"
                        f" {other.process.number} holds {other.grant.token}",
                    )
            latest = max((h.grant.token for h in held if self.scenario.exclude(new, h)), default=0)
            if new.grant.token <= latest and not self._tampered(new):
                raise Violation("token", f"{new.grant.token} was given after {latest}")
        held.append(new)
        return new

    def _tampered(self, holding: Holding) -> bool:
        """Say whether an operator has taken it away, of which its holder may not know yet."""
        token = holding.grant.token
        for key in holding.keys:
            if self.store.created(key) == token:
                continue
            for change in self.store.changes:
                if change.key == key and change.value is None and change.revision > token:
                    if change.by == ADMIN:
                        return True
                    break
        return False


def _end(loop: Clockwork) -> None:
    """Let nothing run on after a schedule that failed half-way."""
    loop._stopped.clear()
    for _ in range(50):
        tasks = asyncio.all_tasks(loop)
        if not tasks:
            break
        for task in tasks:
            task.cancel()
        loop.set_exception_handler(_ignore)
        try:
            loop.run_until_complete(asyncio.wait(tasks, timeout=1.0))
        except Stuck:
            break
    loop.close()


def _ignore(_: object, __: object) -> None:
    """Hear nothing any more."""


def _where(task: asyncio.Task[Any]) -> str:
    frames: list[str] = []
    coro: Any = task.get_coro()
    while coro is not None:
        frame = getattr(coro, "cr_frame", None) or getattr(coro, "gi_frame", None)
        if frame is not None:
            frames.append(f"{frame.f_code.co_name}:{frame.f_lineno}")
        coro = getattr(coro, "cr_await", None) or getattr(coro, "gi_yieldfrom", None)
    return " > ".join(frames[-6:])
