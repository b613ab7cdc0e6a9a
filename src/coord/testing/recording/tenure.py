"""Locks and elections: who called when, who won which token, and until when it was sure of it."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from coord.errors import CoordError
from coord.grants import Grant
from coord.runtime import Supervisor, finish
from coord.store.keys import to_bytes
from coord.testing.records import Tenure

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

    from coord.election import Election, Leader, Term
    from coord.mutex import Mutex, MutexGrant
    from coord.session import Session
    from coord.testing.history import Recorder
    from coord.testing.records import TenureKind, TenurePhase

G = TypeVar("G", bound=Grant)

_NANOSECONDS = 1_000_000_000
_RELEASE_WITHIN_S = 30.0


class _Attempt:
    """One acquisition, or one observer's stay: its fixed fields, and how it is recorded."""

    def __init__(self, recorder: Recorder, kind: TenureKind, client: str, name: bytes) -> None:
        self._recorder = recorder
        self._kind: TenureKind = kind
        self._client = client
        self._name = name
        self._number = recorder.new_id()

    def note(self, phase: TenurePhase, **more: Any) -> None:  # noqa: ANN401 - fields of Tenure
        """Record a phase, now."""
        self._recorder.add(
            Tenure(
                kind=self._kind,
                attempt=self._number,
                client=self._client,
                name=self._name,
                ts=self._recorder.now(),
                phase=phase,
                **more,
            )
        )

    def until(self, grant: Grant) -> int:
        """Return when a grant ceases to be sure, as far as is known now; 0 if it has ceased."""
        # The clock first: what comes out is never later than the truth.
        now = self._recorder.now()
        left = grant.valid_for()
        return now + int(left * _NANOSECONDS) if left > 0 else 0


class RecordedTenure(Generic[G]):
    """A grant and its record. ``grant`` is the real one; give it back through :meth:`release`."""

    def __init__(self, attempt: _Attempt, grant: G) -> None:
        self.grant = grant
        self._attempt = attempt
        self._left = False
        attempt.note(
            "won",
            token=grant.token,
            key=grant.key,
            lease=grant.session.lease_id,
            until=attempt.until(grant),
        )
        self._losses = Supervisor(lambda _name, _error: None)
        self._losses.spawn(self._await_loss(), name="recorded loss")

    @property
    def token(self) -> int:
        """The fencing token."""
        return self.grant.token

    def wrote(self, revision: int, value: str | bytes = b"") -> None:
        """Record that a write guarded by this grant (or fenced by its token) succeeded at ``revision``."""
        raw = to_bytes(value, "value")
        self._attempt.note("write", token=self.token, revision=revision, value=raw)

    async def release(self) -> bool:
        """Give it back, as ``Grant.release``. A second call returns at once."""
        if self._left:
            return not self.grant.lost.is_set()
        self._left = True
        self._attempt.note("leave", token=self.token, until=self._attempt.until(self.grant))
        await self._losses.close()
        kept = await self.grant.release()
        self._attempt.note("left", token=self.token)
        return kept

    async def _await_loss(self) -> None:
        try:
            reason = await self.grant.lost.wait()
        except CoordError:
            return  # the client was closed
        self._attempt.note("lost", token=self.token, error=reason)


class RecordedMutex:
    """As ``coord.Mutex``, with every attempt recorded."""

    def __init__(
        self, mutex: Mutex, recorder: Recorder, client: str, session: Session | None
    ) -> None:
        self.mutex = mutex
        self._recorder = recorder
        self._client = client
        self._session = session

    async def acquire(self, *, timeout: float | None = None) -> RecordedTenure[MutexGrant]:
        """Wait for the lock, as ``Mutex.acquire``."""
        attempt = _Attempt(self._recorder, "lock", self._client, self.mutex.name)
        lease = 0 if self._session is None else self._session.lease_id
        return await _won(attempt, lease, lambda: self.mutex.acquire(timeout=timeout))

    @asynccontextmanager
    async def hold(
        self, *, timeout: float | None = None
    ) -> AsyncGenerator[RecordedTenure[MutexGrant]]:
        """Acquire, run the body, release. A loss does not cancel the body: it may look at the grant."""
        tenure = await self.acquire(timeout=timeout)
        try:
            yield tenure
        finally:
            await finish(tenure.release(), within=_RELEASE_WITHIN_S)


class RecordedElection:
    """As ``coord.Election``, with campaigns, terms, proclamations and observations recorded."""

    def __init__(self, election: Election, recorder: Recorder, client: str) -> None:
        self.election = election
        self._recorder = recorder
        self._client = client

    async def campaign(
        self, value: str | bytes = b"", *, timeout: float | None = None
    ) -> RecordedTenure[Term]:
        """Wait to become the leader, as ``Election.campaign``."""
        attempt = _Attempt(self._recorder, "elect", self._client, self.election.name)
        return await _won(attempt, 0, lambda: self.election.campaign(value, timeout=timeout))

    async def proclaim(self, tenure: RecordedTenure[Term], value: str | bytes) -> int:
        """Publish a value in a term of :meth:`campaign`, and return its revision."""
        revision = await tenure.grant.proclaim(value)
        tenure.wrote(revision, value)
        return revision

    async def observe(self) -> AsyncIterator[Leader | None]:
        """Yield leaders, as ``Election.observe``."""
        attempt = _Attempt(self._recorder, "elect", self._client, self.election.name)
        async for leader in self.election.observe():
            if leader is None:
                attempt.note("seen")
            else:
                attempt.note(
                    "seen",
                    token=leader.token,
                    key=leader.key,
                    lease=leader.lease_id,
                    revision=leader.revision,
                    value=leader.value,
                )
            yield leader


async def _won(
    attempt: _Attempt, lease: int, acquire: Callable[[], Awaitable[G]]
) -> RecordedTenure[G]:
    attempt.note("call", lease=lease)
    try:
        grant = await acquire()
    except BaseException as error:
        attempt.note("failed", lease=lease, error=f"{type(error).__name__}: {error}")
        raise
    return RecordedTenure(attempt, grant)
