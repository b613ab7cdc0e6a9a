"""Operation markers: a transaction that takes effect exactly once, though it is sent again (spec recipes C4).

The transaction also writes ``_coord/op/<nonce>`` and compares that this key does not exist.
When an answer is missing it is simply sent again: either it is applied now, or the marker is there and says that an
earlier copy was, and at which revision.

A marker lives under a lease that all operations of a client share for a minute and that is never renewed.
A copy that arrives after the marker has vanished fails, because it names a lease that has vanished with it.
So the outcome can be told for as long as the lease lives; if that ends first, it stays unknown.

:meth:`Markers.settle` ends all doubt at once: it looks for the marker, and if there is none takes its place, so that
every copy still under way fails.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from coord.errors import (
    AmbiguousResult,
    CoordError,
    CoordTimeout,
    LeaseNotFound,
    PermissionDenied,
    Unavailable,
)
from coord.notices import RightsWarning, notice
from coord.runtime import Backoff
from coord.store import comparing as compare
from coord.store import operations as op
from coord.store.caller import Repeat
from coord.store.txn import present_state

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from coord.runtime import Runtime
    from coord.store.comparing import Compare
    from coord.store.lease import Leases
    from coord.store.operations import Op
    from coord.store.txn import TxnResult, TxnRunner

MARKER_PREFIX = b"_coord/op/"
MARKER_OPS = 1
"""What a marker adds to each of the three lists of a transaction."""
_TTL_S = 120
# A lease is handed out for half its life, so an operation has at least the other half to learn its outcome.
_ROTATE_S = 60.0
_APPLIED = b""
_VOID = b"void"
_DENIED_TEXT = "etcdserver: permission denied"  # and nothing about who the user is
_BACKOFF_FIRST_S, _BACKOFF_MAX_S = 0.05, 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Marked:
    """What became of a marked transaction.

    ``applied`` tells whether the comparisons held; then ``revision`` is the one at which they did.
    ``result`` is the answer, with one more response than the caller asked for, the marker's, at its end; None when it
    was found out without the answer itself.
    """

    applied: bool
    revision: int
    result: TxnResult | None = None


@dataclass(frozen=True, slots=True)
class _SharedLease:
    lease_id: int
    fresh_until: float


class Markers:
    """The markers of one client. Usable from any loop."""

    def __init__(
        self,
        runtime: Runtime,
        txn: TxnRunner,
        leases: Leases,
        *,
        request_timeout: float,
        at_close: Callable[[Callable[[], Awaitable[None]]], object],
    ) -> None:
        self._runtime = runtime
        self._clock = runtime.env.clock
        self._rand = runtime.env.rand
        self._txn = txn
        self._leases = leases
        self.request_timeout = request_timeout
        self._at_close = at_close
        # One value, replaced as a whole: read on any loop, written on the runtime's.
        self._current: _SharedLease | None = None
        self._granting = asyncio.Lock()
        self._granted: list[int] = []
        self._denied = False

    async def run(
        self,
        when: tuple[Compare, ...],
        then: tuple[Op, ...],
        otherwise: tuple[Op, ...] = (),
        *,
        timeout: float | None = None,
    ) -> Marked:
        """Run a transaction exactly once, sending it again for up to ``timeout`` seconds until its outcome is known.

        Raises :class:`Unavailable` or :class:`CoordTimeout` only when nothing was applied, and refusals of the store.
        Raises :class:`AmbiguousResult` when the time, or the marker's lease, ended first; its ``resolve()`` settles
        the matter, and returns the revision at which it was applied, None if it was not and never will be.
        After a cancellation it was applied once or not at all.
        """
        limit = self.request_timeout if timeout is None else timeout
        attempt = _Attempt(self, when, then, otherwise, deadline=self._clock.mono() + limit)
        if self._denied:
            return await attempt.run_unmarked(limit)
        return await attempt.run(limit)

    async def settle(self, key: bytes, lease_id: int, *, timeout: float | None = None) -> Marked:
        """Say what became of the operation with the marker ``key``: applied, or not and never to be.

        Can be repeated after any failure.
        Raises :class:`LeaseNotFound` when its lease has ended, with all evidence.
        """
        result = await self._txn.run(
            (compare.missing(key),),
            (op.put(key, _VOID, lease=lease_id),),
            (op.get(key),),
            repeat=Repeat.IDEMPOTENT,
            timeout=timeout,
        )
        if result.succeeded:
            return Marked(applied=False, revision=result.revision)
        found = result.range(0).items[0]
        if found.value == _VOID:
            return Marked(applied=False, revision=result.revision)
        return Marked(applied=True, revision=found.create_revision)

    async def lease(self, *, timeout: float) -> int:
        """Return the id of the shared lease, granting a fresh one every minute.

        Raises :class:`Unavailable` or :class:`CoordTimeout`, and refusals of the store; never that an outcome is in
        doubt, since a lease too many matters to nobody.
        """
        current = self._current
        if current is not None and self._clock.mono() < current.fresh_until:
            return current.lease_id
        return await self._runtime.run(self._renew(timeout))

    async def _renew(self, timeout: float) -> int:
        deadline = self._clock.mono() + timeout
        try:
            async with asyncio.timeout(timeout):
                await self._granting.acquire()
        except TimeoutError:
            raise CoordTimeout("LeaseGrant", timeout) from None
        try:
            current = self._current
            if current is not None and self._clock.mono() < current.fresh_until:
                return current.lease_id
            sent = self._clock.mono()
            left = max(0.0, deadline - sent)
            try:
                granted = await self._leases.grant(_TTL_S, timeout=left)
            except AmbiguousResult as error:
                raise Unavailable(f"no lease for an operation marker: {error.reason}") from error
            if not self._granted:
                self._at_close(self._revoke)
            # The ones before those have ended by themselves.
            self._granted = [*self._granted[-1:], granted.lease_id]
            self._current = _SharedLease(granted.lease_id, sent + _ROTATE_S)
            return granted.lease_id
        finally:
            self._granting.release()

    async def ended(self, lease_id: int, *, timeout: float) -> bool:
        """Say whether the lease has ended, and never hand it out again if so."""
        info = await self._leases.time_to_live(lease_id, timeout=timeout)
        if info.remaining is not None:
            return False
        current = self._current
        if current is not None and current.lease_id == lease_id:
            self._current = None
        return True

    async def _revoke(self) -> None:
        """Take the markers away with their leases, as the client closes."""
        granted, self._granted, self._current = self._granted, [], None
        for lease_id in granted:
            try:
                await self._leases.revoke(lease_id, timeout=1.0)
            except CoordError:
                continue  # it ends by itself

    def deny(self) -> None:
        """Go on without markers: the user has no right to ``_coord/`` (spec recipes C17)."""
        if not self._denied:
            self._denied = True
            notice(
                RightsWarning(
                    "the store denies access to keys below '_coord/': transactions run without operation markers, and a"
                    " lost answer is reported as AmbiguousResult instead of being cleared up; grant this user readwrite"
                    " on the prefix '_coord/'"
                )
            )

    def nonce(self) -> bytes:
        """Return a fresh marker's key."""
        return MARKER_PREFIX + format(self._rand.bits(64), "016x").encode()

    def backoff(self) -> Backoff:
        """Return the pauses between copies."""
        return Backoff(self._rand, _BACKOFF_FIRST_S, _BACKOFF_MAX_S, spread=1)

    @property
    def now(self) -> float:
        """Monotonic seconds."""
        return self._clock.mono()

    @property
    def runner(self) -> TxnRunner:
        """What sends the transactions."""
        return self._txn


class _Attempt:
    """One marked transaction and all its copies."""

    def __init__(
        self,
        markers: Markers,
        when: tuple[Compare, ...],
        then: tuple[Op, ...],
        otherwise: tuple[Op, ...],
        *,
        deadline: float,
    ) -> None:
        self._markers = markers
        self._when = when
        self._then = then
        self._otherwise = otherwise
        self._deadline = deadline
        self._key = markers.nonce()
        self._lease = 0
        self._doubt: AmbiguousResult | None = None

    async def run(self, limit: float) -> Marked:
        backoff = self._markers.backoff()
        last: CoordError = CoordTimeout("Txn", limit)
        while True:
            left = self._deadline - self._markers.now
            if left <= 0:
                raise self._unless_doubtful(last)
            try:
                once = min(left, self._markers.request_timeout)
                if not self._lease:
                    self._lease = await self._markers.lease(timeout=once)
                    once = min(once, self._deadline - self._markers.now)
                    if once <= 0:
                        continue
                result = await self._send(once)
            except AmbiguousResult as error:
                self._doubt = error
            except (Unavailable, CoordTimeout) as error:
                last = error
            except LeaseNotFound as error:
                settled = await self._lease_missing(error, left)
                if settled is not None:
                    return settled
            except PermissionDenied as error:
                return await self._denied(error, left)
            except CoordError as error:
                return await self._settled(error)
            else:
                return await self._answered(result)
            await backoff.pause(max(0.0, self._deadline - self._markers.now))

    async def _send(self, left: float) -> TxnResult:
        return await self._markers.runner.run(
            (*self._when, compare.missing(self._key)),
            (*self._then, op.put(self._key, _APPLIED, lease=self._lease)),
            (*self._otherwise, op.get(self._key)),
            repeat=Repeat.ONCE,
            timeout=left,
        )

    async def _answered(self, result: TxnResult) -> Marked:
        refused = Marked(applied=False, revision=result.revision, result=result)
        if result.succeeded:
            return replace(refused, applied=True)
        found = result.range(len(self._otherwise)).items
        if found:
            return Marked(applied=True, revision=found[0].create_revision)
        if self._doubt is None:
            return refused
        # The comparisons do not hold now. They may again when an earlier copy arrives after all: stop it first.
        settled = await self._settle()
        return settled if settled.applied else refused

    async def run_unmarked(self, limit: float) -> Marked:
        """Run it once, without a marker."""
        runner = self._markers.runner
        result = await runner.run(
            self._when,
            self._then,
            self._otherwise,
            timeout=limit,
            resolver=present_state(runner, self._then),
        )
        return Marked(applied=result.succeeded, revision=result.revision, result=result)

    async def _denied(self, error: PermissionDenied, left: float) -> Marked:
        """Find out whether the marker is what the user has no right to."""
        if self._doubt is not None or error.message != _DENIED_TEXT:
            return await self._settled(error)
        result = await self.run_unmarked(left)
        self._markers.deny()
        return result

    async def _lease_missing(self, error: LeaseNotFound, left: float) -> Marked | None:
        """Return what became of it, or None if it may be sent again, under another lease."""
        try:
            ended = await self._markers.ended(self._lease, timeout=left)
        except CoordError as failed:
            raise self._unless_doubtful(failed) from error
        if not ended:
            # The lease that is missing is one that the transaction itself names.
            return await self._settled(error)
        if self._doubt is not None:
            raise self._unknown() from error
        self._lease = 0
        return None

    async def _settled(self, error: CoordError) -> Marked:
        """Find out whether a copy before the one that failed with ``error`` was applied; else raise that."""
        if self._doubt is not None:
            settled = await self._settle()
            if settled.applied:
                return settled
        raise error

    async def _settle(self) -> Marked:
        """End the doubt, in the time that is left."""
        backoff = self._markers.backoff()
        while True:
            left = self._deadline - self._markers.now
            if left <= 0:
                raise self._unknown() from self._doubt
            try:
                return await self._markers.settle(
                    self._key, self._lease, timeout=min(left, self._markers.request_timeout)
                )
            except (Unavailable, CoordTimeout, AmbiguousResult):
                await backoff.pause(left)
            except CoordError as error:
                raise self._unknown() from error

    def _unless_doubtful(self, error: CoordError) -> CoordError:
        return error if self._doubt is None else self._unknown()

    def _unknown(self) -> AmbiguousResult:
        key, lease = self._key, self._lease
        reason = "no answer" if self._doubt is None else self._doubt.reason

        async def resolve() -> int | None:
            settled = await self._markers.settle(key, lease)
            return settled.revision if settled.applied else None

        return AmbiguousResult("Txn", reason, resolver=resolve)
