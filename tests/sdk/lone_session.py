"""A session alone, in virtual time: its client is a handful of fakes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, cast

import coord
from coord import SessionState
from coord.coordination import Coordination
from coord.runtime import Env, Runtime, Supervisor
from coord.session import Session
from coord.store.values import LeaseGrant, LeaseInfo
from tests.support.virtual import VirtualLoop, virtual_env

T = TypeVar("T")
Probe = Callable[[], bool]


class FakeLeases:
    """A server's leases as far as a session asks. ``grant_takes`` seconds pass before an answer."""

    def __init__(self, env: Env) -> None:
        self._env = env
        self.min_ttl = 1
        self.grant_takes = 0.0
        self.adopted_ttl = 0
        self.granted_at = 0.0
        self.revoked: list[int] = []
        self.reachable = True
        self.answers = True

    async def grant(
        self, ttl: int, *, lease_id: int, reuse: bool, timeout: float | None
    ) -> LeaseGrant:
        assert reuse  # a repeated grant may find its own first attempt
        self.granted_at = self._env.clock.mono()
        await asyncio.sleep(self.grant_takes)
        if not self.answers:
            raise coord.AmbiguousResult("LeaseGrant", "no answer")
        if not self.reachable:
            raise coord.Unavailable("nobody there")
        return LeaseGrant(lease_id=lease_id, ttl=max(ttl, self.min_ttl), revision=1)

    async def keep_alive_once(self, lease_id: int, *, timeout: float | None) -> int:
        await asyncio.sleep(self.grant_takes)
        return self.adopted_ttl

    async def revoke(self, lease_id: int, *, timeout: float | None = None) -> int:
        if not self.reachable:
            raise coord.Unavailable("nobody there")
        self.revoked.append(lease_id)
        return 1

    async def time_to_live(self, lease_id: int) -> LeaseInfo:
        gone = lease_id in self.revoked
        return LeaseInfo(lease_id=lease_id, remaining=None if gone else 1.0, granted=0)


@dataclass(slots=True)
class FakeRenewals:
    """Takes note of what is asked for; answers are the test's business."""

    env: Env
    asked: list[float] = field(default_factory=list[float])
    hedged: list[float] = field(default_factory=list[float])
    members: list[Session] = field(default_factory=list[Session])
    critical: bool = False
    on_ask: Callable[[float], object] = lambda _: None

    def add(self, session: Session, *, critical: bool) -> None:
        self.members.append(session)
        self.critical = critical

    def remove(self, session: Session) -> None:
        self.members.remove(session)

    def renew(self, session: Session) -> None:
        self.asked.append(self.env.clock.mono())
        self.on_ask(self.asked[-1])

    async def renew_elsewhere(self, session: Session, *, timeout: float) -> None:
        self.hedged.append(self.env.clock.mono())


class Home:
    """What a session needs of a client."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.loop = loop
        self.env = virtual_env(loop)
        self.runtime = Runtime.inline(self.env)
        self.leases = FakeLeases(self.env)
        self.renewals = FakeRenewals(self.env)
        self.sessions: dict[Session, None] = {}
        self.failures: list[BaseException] = []
        self.supervisor = Supervisor(lambda _, error: self.failures.append(error))
        self.core = self
        self.closing = asyncio.Event()

    def background(
        self, coro: Coroutine[Any, Any, object], *, name: str
    ) -> asyncio.Task[object] | None:
        return self.supervisor.spawn(coro, name=name)

    async def run(self, coro: Coroutine[Any, Any, T]) -> T:
        return await coro

    def session(
        self,
        ttl: int = 10,
        *,
        lease_id: int | None = None,
        liveness: Literal["loop"] | Probe | None = None,
        liveness_timeout: float | None = None,
    ) -> Session:
        """A session that is not open yet."""
        return Session(
            cast(Coordination, self),
            ttl=ttl,
            lease_id=lease_id,
            liveness=liveness,
            liveness_timeout=liveness_timeout,
        )

    async def open(
        self,
        ttl: int = 10,
        *,
        lease_id: int | None = None,
        liveness: Literal["loop"] | Probe | None = None,
        liveness_timeout: float | None = None,
    ) -> Session:
        session = self.session(
            ttl, lease_id=lease_id, liveness=liveness, liveness_timeout=liveness_timeout
        )
        return await session.open()

    def answer_at_once(self, session: Session) -> None:
        """From now on every renewal is confirmed immediately."""
        self.renewals.on_ask = lambda sent_at: session.on_renewed(sent_at, session.ttl)

    async def next_renewal(self) -> None:
        """Wait until a renewal has been asked for and answered."""
        asked = asyncio.Event()
        answer = self.renewals.on_ask

        def on_ask(sent_at: float) -> None:
            self.renewals.on_ask = answer
            answer(sent_at)
            asked.set()

        self.renewals.on_ask = on_ask
        await asked.wait()

    async def close(self) -> None:
        await self.supervisor.close()


def states_of(session: Session) -> list[SessionState]:
    """A list that grows with each state that observers are told."""
    seen: list[SessionState] = []
    session.on_state(seen.append)
    return seen
