"""What may be sent twice, and what is said when nobody can know: every kind of failure against every kind of call."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import coord
from coord.errors import from_status
from coord.rpc.metadata import Metadata
from coord.rpc.status import RpcError, StatusCode
from coord.runtime import Address, Runtime, real_env
from coord.store import Caller, Repeat
from coord.store.kv import KV
from coord.store.lease import Leases
from coord.transport import Cancellable, MessageStream
from coord.wire import rpc_pb2

Outcome = bytes | RpcError

OK = rpc_pb2.PutResponse(header=rpc_pb2.ResponseHeader(revision=7)).SerializeToString()
NEVER_SENT = RpcError(StatusCode.UNAVAILABLE, "no connection", sent=False)
LOST = RpcError(StatusCode.UNAVAILABLE, "connection lost")
RESET = RpcError(StatusCode.CANCELLED, "reset by the server")
TOO_LATE = RpcError(StatusCode.DEADLINE_EXCEEDED, "too late")
NO_LEADER = RpcError(StatusCode.UNAVAILABLE, "etcdserver: no leader")
BUSY = RpcError(StatusCode.RESOURCE_EXHAUSTED, "etcdserver: too many requests")
REFUSED = RpcError(StatusCode.INVALID_ARGUMENT, "etcdserver: key is not provided")


class Script:
    """A transport that answers as told; the last word is repeated."""

    def __init__(self, *outcomes: Outcome) -> None:
        self.outcomes = deque(outcomes)
        self.sent = 0
        self.suspicions = 0
        self.closed = False
        self.endpoints = ("script",)
        self.current: Address | None = None

    async def unary(
        self,
        path: str,
        request: bytes,
        *,
        timeout: float,
        metadata: Metadata = (),
        avoid: str | None = None,
    ) -> bytes:
        assert timeout > 0
        self.sent += 1
        outcome = self.outcomes[0]
        if len(self.outcomes) > 1:
            self.outcomes.popleft()
        if isinstance(outcome, RpcError):
            raise outcome
        return outcome

    def start_unary(
        self,
        path: str,
        request: bytes,
        done: Callable[[Outcome], None],
        **options: Any,  # noqa: ANN401 - passed on
    ) -> Cancellable:
        async def run() -> None:
            try:
                done(await self.unary(path, request, **options))
            except RpcError as error:
                done(error)

        return asyncio.ensure_future(run())

    async def open_stream(self, path: str, **options: object) -> MessageStream:
        raise LOST

    def suspect(self, endpoint: str | None = None) -> None:
        self.suspicions += 1

    async def close(self) -> None:
        self.closed = True


async def call(script: Script, repeat: Repeat, *, timeout: float = 0.3) -> bytes:
    caller = Caller(script, Runtime.inline(real_env()), request_timeout=10)
    return await caller.call_raw("/etcdserverpb.KV/Put", b"", repeat=repeat, timeout=timeout)


@pytest.mark.parametrize("repeat", Repeat)
@pytest.mark.parametrize("first", [NEVER_SENT, NO_LEADER, BUSY], ids=str)
async def test_what_certainly_did_nothing_is_repeated(repeat: Repeat, first: RpcError) -> None:
    script = Script(first, first, OK)
    assert await call(script, repeat, timeout=10) == OK
    assert script.sent == 3


@pytest.mark.parametrize("repeat", [Repeat.READ, Repeat.IDEMPOTENT])
@pytest.mark.parametrize("first", [LOST, RESET], ids=str)
async def test_what_may_be_done_twice_is_repeated(repeat: Repeat, first: RpcError) -> None:
    script = Script(first, OK)
    assert await call(script, repeat, timeout=10) == OK
    assert script.sent == 2


@pytest.mark.parametrize("error", [LOST, RESET, TOO_LATE], ids=str)
async def test_a_write_in_doubt_is_sent_once(error: RpcError) -> None:
    script = Script(error, OK)
    with pytest.raises(coord.AmbiguousResult) as caught:
        await call(script, Repeat.ONCE)
    assert script.sent == 1
    assert caught.value.operation == "Put"
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("repeat", Repeat)
async def test_a_refusal_is_final(repeat: Repeat) -> None:
    script = Script(REFUSED, OK)
    with pytest.raises(coord.RequestRefused, match="key is not provided"):
        await call(script, repeat)
    assert script.sent == 1


async def test_doubt_outlives_later_certainty() -> None:
    # The first copy may have been applied, whatever becomes of the second.
    script = Script(LOST, NEVER_SENT)
    with pytest.raises(coord.AmbiguousResult, match="connection lost"):
        await call(script, Repeat.IDEMPOTENT)
    assert script.sent > 1


async def test_at_the_deadline_the_last_word_counts() -> None:
    with pytest.raises(coord.Unavailable):
        await call(Script(NEVER_SENT), Repeat.ONCE)
    with pytest.raises(coord.Unavailable):
        await call(Script(LOST), Repeat.READ)
    with pytest.raises(coord.Unavailable, match="too many requests"):
        await call(Script(BUSY), Repeat.ONCE)


async def test_a_closed_client_repeats_nothing() -> None:
    for repeat, outcome, kind in (
        (Repeat.READ, LOST, coord.ClientClosed),
        (Repeat.ONCE, NEVER_SENT, coord.ClientClosed),
        (Repeat.ONCE, LOST, coord.AmbiguousResult),
    ):
        script = Script(outcome)
        script.closed = True
        with pytest.raises(kind):
            await call(script, repeat)
        assert script.sent == 1


async def test_useless_endpoints_are_reported() -> None:
    script = Script(NO_LEADER, OK)
    await call(script, Repeat.READ, timeout=10)
    await asyncio.sleep(0)
    assert script.suspicions == 1
    script = Script(NEVER_SENT, REFUSED)
    with pytest.raises(coord.RequestRefused):
        await call(script, Repeat.READ, timeout=10)
    await asyncio.sleep(0)
    assert script.suspicions == 0


@pytest.mark.parametrize("threaded", [False, True])
async def test_answers_that_are_none(threaded: bool) -> None:
    runtime = Runtime.threaded(real_env()) if threaded else Runtime.inline(real_env())
    try:
        kv = KV(Caller(Script(b"\xff\xff"), runtime, request_timeout=1))
        calls: list[Awaitable[object]] = [kv.get("k"), kv.get("k", revision=3), kv.put("k", "v")]
        for each in calls:
            with pytest.raises(coord.ProtocolError):
                await each
    finally:
        runtime.close()


async def test_a_grant_whose_answer_was_lost_is_found_again() -> None:
    exists = RpcError(StatusCode.FAILED_PRECONDITION, "etcdserver: lease already exists")
    ttl = rpc_pb2.LeaseTimeToLiveResponse(TTL=50, grantedTTL=60).SerializeToString()
    leases = Leases(Caller(Script(LOST, exists, ttl), Runtime.inline(real_env()), request_timeout=5))  # fmt: skip
    assert (await leases.grant(60)).ttl == 60
    leases = Leases(Caller(Script(exists), Runtime.inline(real_env()), request_timeout=5))
    with pytest.raises(coord.LeaseExists):
        await leases.grant(60, lease_id=5)


@pytest.mark.parametrize(
    ("code", "text", "kind"),
    [
        (StatusCode.OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted", coord.Compacted),
        (StatusCode.OUT_OF_RANGE, "etcdserver: mvcc: required revision is a future revision", coord.FutureRevision),
        (StatusCode.NOT_FOUND, "etcdserver: requested lease not found", coord.LeaseNotFound),
        (StatusCode.FAILED_PRECONDITION, "etcdserver: lease already exists", coord.LeaseExists),
        (StatusCode.INVALID_ARGUMENT, "etcdserver: key not found", coord.KeyNotFound),
        (StatusCode.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded", coord.NoSpace),
        (StatusCode.INVALID_ARGUMENT, "etcdserver: request is too large", coord.TooLarge),
        (StatusCode.PERMISSION_DENIED, "etcdserver: permission denied", coord.PermissionDenied),
        (StatusCode.UNAUTHENTICATED, "etcdserver: invalid auth token", coord.PermissionDenied),
        (StatusCode.INVALID_ARGUMENT, "etcdserver: user name is empty", coord.PermissionDenied),
        (StatusCode.UNIMPLEMENTED, "unknown service", coord.RequestRefused),
        (StatusCode.FAILED_PRECONDITION, "anything else", coord.RequestRefused),
    ],
)  # fmt: skip
@pytest.mark.parametrize("writes", [True, False])
def test_statuses(code: StatusCode, text: str, kind: type[Exception], writes: bool) -> None:
    error = from_status(RpcError(code, text), operation="Put", writes=writes)
    assert type(error) is kind
    assert text in str(error)
