"""Requests that nobody means well: every one gets the right gRPC error, and the server lives on.

Both servers are asked, ours and etcd 3.5.1, and answer alike; where they do not, both answers stand in
the table with the reason. Memory is looked at from outside, in /proc.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import grpc
import pytest

from coord.rpc.status import StatusCode
from coord.wire import lock_pb2, rpc_pb2
from coord.wire import methods as rpcs
from coord.wire.fast import delimited
from tests.support.memory import rss_bytes
from tests.support.raw_grpc import Outcome, call, leave_open, message
from tests.support.servers import ServerProcess

pytestmark = [pytest.mark.etcd, pytest.mark.processes]

MIB = 1 << 20
Stream: TypeAlias = "grpc.StreamStreamMultiCallable[bytes, bytes]"
PUT = rpcs.KV_PUT.path
TXN = rpcs.KV_TXN.path
GOOD = rpc_pb2.PutRequest(key=b"k", value=b"v").SerializeToString()
PUT_OP = delimited(0x12, delimited(0x12, rpc_pb2.PutRequest(key=b"k").SerializeToString()))

OK = Outcome(0, "")
TOO_MANY_OPS = Outcome(
    StatusCode.INVALID_ARGUMENT, "etcdserver: too many operations in txn request"
)
TOO_LARGE = Outcome(StatusCode.INVALID_ARGUMENT, "etcdserver: request is too large")
EMPTY_KEY = Outcome(StatusCode.INVALID_ARGUMENT, "etcdserver: key is not provided")
MALFORMED = Outcome(
    StatusCode.INTERNAL,
    "grpc: error unmarshalling request: proto: cannot parse invalid wire-format data",
)
TWO_MESSAGES = Outcome(
    StatusCode.INTERNAL,
    "cardinality violation: received multiple request messages for non-client-streaming RPC",
)
EOF_TEXT = "unexpected EOF"

# Clients that hold a message each, and what that costs.
CLIENTS = 20
HELD_BYTES = CLIENTS * 2 * 2 * MIB + 16 * MIB
# All that is sent here together moves the server's memory by this and no more.
GROWTH_BYTES = HELD_BYTES + 32 * MIB


@pytest.fixture(scope="module", autouse=True)
def memory_is_bounded(shared_coord_server: ServerProcess) -> Iterator[None]:
    """Whatever the tests of this module send leaves the server alive, and about as large as before."""
    warm_up = rpc_pb2.PutRequest(key=b"warm", value=bytes(MIB)).SerializeToString()
    for _ in range(3):
        assert call(shared_coord_server.endpoint, PUT, message(warm_up)) == OK
    before = rss_bytes(shared_coord_server.pid)
    yield
    assert call(shared_coord_server.endpoint, PUT, message(GOOD)) == OK
    assert rss_bytes(shared_coord_server.pid) < before + GROWTH_BYTES


def too_long(size: int) -> Outcome:
    return Outcome(
        StatusCode.RESOURCE_EXHAUSTED,
        f"grpc: received message larger than max ({size} vs. {2 * MIB})",
    )


def put_of(size: int) -> bytes:
    """A put whose message has this many bytes."""
    request = rpc_pb2.PutRequest(key=b"k", value=bytes(size - 7)).SerializeToString()
    assert len(request) == size
    return request


def nested(levels: int, inner: bytes = b"") -> bytes:
    for _ in range(levels):
        inner = delimited(0x12, delimited(0x22, inner))
    return inner


@dataclass(frozen=True)
class Case:
    """A request, what we answer, and what etcd 3.5.1 answers if that is something else."""

    name: str
    path: str
    body: bytes
    ours: Outcome
    etcd: Outcome | None = None
    options: dict[str, Any] = field(default_factory=dict[str, Any])


def version(text: bytes) -> dict[str, Any]:
    return {"headers": [("client-api-version", text)]}


SIZES = [
    Case("just fits", PUT, message(put_of(3 * MIB // 2 - 100)), OK),
    Case("1.5 MiB", PUT, message(put_of(3 * MIB // 2)), TOO_LARGE),
    Case("2 MiB", PUT, message(put_of(2 * MIB)), TOO_LARGE),
    Case("one byte more", PUT, message(put_of(2 * MIB + 1)), too_long(2 * MIB + 1)),
    Case("1000 times", PUT, message(GOOD, length=1500 * MIB), too_long(1500 * MIB)),
    Case("4 GiB, as it says", PUT, message(GOOD, length=2**32 - 1), too_long(2**32 - 1)),
    Case(
        "an unknown field counts",
        PUT,
        message(GOOD + delimited(0x7A, bytes(3 * MIB // 2))),
        TOO_LARGE,
    ),
    Case(
        "a read of 1.6 MiB",
        rpcs.KV_RANGE.path,
        message(rpc_pb2.RangeRequest(key=bytes(8 * MIB // 5)).SerializeToString()),
        OK,
    ),
    Case(
        "a delete of 1.6 MiB",
        rpcs.KV_DELETE_RANGE.path,
        message(rpc_pb2.DeleteRangeRequest(key=bytes(8 * MIB // 5)).SerializeToString()),
        TOO_LARGE,
    ),
    Case(
        "a lock of 1.6 MiB",
        rpcs.LOCK_LOCK.path,
        message(lock_pb2.LockRequest(name=bytes(8 * MIB // 5)).SerializeToString()),
        Outcome(StatusCode.UNKNOWN, "etcdserver: request is too large"),
    ),
    *(
        Case(f"3 MiB to {rpc.path}", rpc.path, message(bytes(3 * MIB)), too_long(3 * MIB))
        for rpc in (rpcs.KV_RANGE, rpcs.KV_TXN, rpcs.KV_COMPACT, rpcs.LEASE_GRANT, rpcs.WATCH_WATCH,
                    rpcs.LEASE_KEEP_ALIVE, rpcs.LOCK_LOCK, rpcs.MAINTENANCE_STATUS)
    ),
]  # fmt: skip

COUNTS = [
    Case("128 operations", TXN, message(b"".join(
        delimited(0x12, delimited(0x12, rpc_pb2.PutRequest(key=b"%d" % n).SerializeToString()))
        for n in range(128))), OK),
    Case("129 operations", TXN, message(PUT_OP * 129), TOO_MANY_OPS),
    Case("129 that would fail", TXN, message(b"\x1a\x00" * 129), TOO_MANY_OPS),
    Case("129 compares", TXN, message(b"\x0a\x00" * 129), TOO_MANY_OPS),
    Case("100,000 operations", TXN, message(PUT_OP * 100_000), TOO_MANY_OPS),
    Case("a million empty compares", TXN, message(b"\x0a\x00" * MIB), TOO_MANY_OPS),
    Case("100 times 100 operations", TXN, message(delimited(0x12, delimited(0x22, PUT_OP * 100)) * 100),
         TOO_MANY_OPS),
    Case("an operation of no kind", TXN, message(b"\x12\x00"),
         Outcome(StatusCode.INVALID_ARGUMENT, "etcdserver: key not found")),
    *(Case(f"nested {levels} deep", TXN, message(nested(levels)), OK) for levels in (1, 50, 51, 100, 128)),
    *(Case(f"nested {levels} deep", TXN, message(nested(levels)), TOO_MANY_OPS)
      for levels in (129, 150, 151, 1000, 10_000)),
    Case("a put 127 deep", TXN, message(nested(127, PUT_OP)), OK),
    Case("a put 128 deep", TXN, message(nested(128, PUT_OP)), TOO_MANY_OPS),
    Case("an empty key 100 deep", TXN, message(nested(100, b"\x12\x02\x12\x00")), EMPTY_KEY),
    Case("damage 100 deep", TXN, message(nested(100, b"\xff")), MALFORMED,
         Outcome(StatusCode.INTERNAL, "grpc: error unmarshalling request: unexpected EOF")),
]  # fmt: skip

# grpc-go has become stricter and clearer since the release that etcd 3.5.1 was built with.
FRAMES = [
    Case("nothing wrong", PUT, message(GOOD), OK),
    Case("an unknown content subtype", PUT, message(GOOD), OK,
         options={"replaced": {"content-type": "application/grpc+json"}}),
    Case("compressed, as it says", PUT, message(GOOD, flag=1),
         Outcome(StatusCode.INTERNAL, "grpc: compressed flag set with identity or empty encoding")),
    Case("an unknown encoding", PUT, message(GOOD, flag=1),
         Outcome(StatusCode.UNIMPLEMENTED, 'grpc: Decompressor is not installed for grpc-encoding "nope"'),
         options={"headers": [("grpc-encoding", "nope")]}),
    Case("half a prefix", PUT, b"\0\0", Outcome(StatusCode.INTERNAL, EOF_TEXT),
         Outcome(StatusCode.UNKNOWN, EOF_TEXT)),
    Case("half a message", PUT, message(GOOD, length=len(GOOD) + 5),
         Outcome(StatusCode.INTERNAL, EOF_TEXT), Outcome(StatusCode.UNKNOWN, EOF_TEXT)),
    Case("two messages", PUT, message(GOOD) * 2, TWO_MESSAGES, OK),
    Case("a byte too many", PUT, message(GOOD) + b"\0", TWO_MESSAGES, OK),
    Case("half a prefix in a stream", rpcs.WATCH_WATCH.path, b"\0\0",
         Outcome(StatusCode.INTERNAL, EOF_TEXT)),
    Case("half a prefix in another", rpcs.LEASE_KEEP_ALIVE.path, b"\0\0",
         Outcome(StatusCode.INTERNAL, EOF_TEXT)),
    Case("no such method", "/etcdserverpb.KV/put", message(GOOD),
         Outcome(StatusCode.UNIMPLEMENTED, "unknown method put for service etcdserverpb.KV")),
    Case("no method", "/etcdserverpb.KV/", message(GOOD),
         Outcome(StatusCode.UNIMPLEMENTED, "unknown method  for service etcdserverpb.KV")),
    Case("no such service", "/a/b/c", message(GOOD),
         Outcome(StatusCode.UNIMPLEMENTED, "unknown service a/b")),
    Case("no path", "nope", message(GOOD),
         Outcome(StatusCode.UNIMPLEMENTED, 'malformed method name: "nope"'),
         Outcome(StatusCode.RESOURCE_EXHAUSTED, 'malformed method name: "nope"')),
    Case("a zero byte in a header", PUT, message(GOOD), Outcome(None, "reset 1"), options=version(b"a\0b")),
    Case("a header in capitals", PUT, message(GOOD), Outcome(None, "reset 1"),
         options={"headers": [("X-Up", "1")]}),
    Case("a version that is no number", PUT, message(GOOD), OK, options=version("3.5é".encode())),
    Case("leader demands in bytes", PUT, message(GOOD), OK, options={"headers": [("hasleader", b"\xff")]}),
]  # fmt: skip

CASES = [*SIZES, *COUNTS, *FRAMES]


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_both_answer(
    case: Case, shared_coord_server: ServerProcess, shared_etcd: ServerProcess
) -> None:
    assert call(shared_coord_server.endpoint, case.path, case.body, **case.options) == case.ours
    assert call(shared_etcd.endpoint, case.path, case.body, **case.options) == (
        case.etcd or case.ours
    )


INVALID_UTF8 = [b"3.5\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\x80", b"\xff" * 300]


@pytest.mark.parametrize("text", INVALID_UTF8)
@pytest.mark.parametrize(
    "rpc", [rpcs.KV_PUT, rpcs.KV_RANGE, rpcs.WATCH_WATCH, rpcs.LEASE_KEEP_ALIVE]
)
def test_versions_that_are_not_utf8(
    text: bytes, rpc: rpcs.Rpc[Any, Any], shared_coord_server: ServerProcess
) -> None:
    # etcd 3.5.1 is not asked: it dies of this.
    body = message(GOOD) if rpc is rpcs.KV_PUT else message(b"")
    assert call(shared_coord_server.endpoint, rpc.path, body, **version(text)) == Outcome(
        StatusCode.INVALID_ARGUMENT, "etcdserver: invalid client api version"
    )


def test_versions_without_end(shared_coord_server: ServerProcess) -> None:
    # Each could become a label of a metric that is kept for ever.
    for number in range(300):
        text = b"%d." % number + b"x" * 1000
        assert call(shared_coord_server.endpoint, PUT, message(GOOD), **version(text)) == OK


DAMAGED = [
    b"\xff",
    b"\x0a\xff",
    b"\x08",
    b"\x07",
    b"\xff" * 20,
    b"\x0a" + b"\x80" * 11,
]
UNARY = [rpc for rpc in rpcs.ALL if not rpc.client_streaming and not rpc.server_streaming]


@pytest.mark.parametrize("rpc", UNARY, ids=lambda rpc: rpc.path)
def test_damaged_requests_of_every_method(
    rpc: rpcs.Rpc[Any, Any], shared_coord_server: ServerProcess, shared_etcd: ServerProcess
) -> None:
    for data in DAMAGED:
        ours = call(shared_coord_server.endpoint, rpc.path, message(data))
        theirs = call(shared_etcd.endpoint, rpc.path, message(data))
        if ours.code == StatusCode.UNIMPLEMENTED:
            assert ours.text.startswith(("unknown method", "unknown service"))
            continue
        assert ours.code == StatusCode.INTERNAL
        if theirs.code != StatusCode.UNIMPLEMENTED:
            assert theirs.code == ours.code
        assert ours.text == MALFORMED.text


@pytest.mark.parametrize("rpc", [rpc for rpc in rpcs.ALL if rpc.server_streaming], ids=lambda rpc: rpc.path)  # fmt: skip
def test_damaged_messages_in_streams(
    rpc: rpcs.Rpc[Any, Any], shared_coord_server: ServerProcess
) -> None:
    for data in DAMAGED:
        found = call(shared_coord_server.endpoint, rpc.path, message(data))
        assert found == Outcome(
            StatusCode.INTERNAL,
            "grpc: failed to unmarshal the received message: "
            "proto: cannot parse invalid wire-format data",
        )


def test_a_stream_is_used_on_after_what_it_ignores(shared_coord_server: ServerProcess) -> None:
    with grpc.insecure_channel(shared_coord_server.endpoint) as channel:
        multi: Stream = channel.stream_stream(rpcs.WATCH_WATCH.path)
        create = rpc_pb2.WatchRequest(create_request=rpc_pb2.WatchCreateRequest(key=b"k"))
        sent = [b"", delimited(0x7A, b"new"), b"\x08\x01", create.SerializeToString()]
        answers = multi(iter(sent))
        assert rpc_pb2.WatchResponse.FromString(next(answers)).created
        answers.cancel()


def test_random_bytes(shared_coord_server: ServerProcess) -> None:
    """Whatever bytes stand in the place of a body, every call ends with a status."""
    rand = random.Random(5)
    # Those that may rightly wait for ever if the bytes happen to make sense are left out.
    waiting = {rpcs.LOCK_LOCK.path, rpcs.ELECTION_CAMPAIGN.path}
    paths = [rpc.path for rpc in UNARY if rpc.path not in waiting]
    for _ in range(400):
        data = rand.randbytes(rand.choice((0, 1, 4, 5, 6, 20, 200, 5000)))
        body = data if rand.random() < 0.3 else message(data)
        found = call(shared_coord_server.endpoint, rand.choice(paths), body)
        assert found.code is not None, found
        assert found.code in set(StatusCode)


def test_messages_that_never_end(shared_coord_server: ServerProcess) -> None:
    """Clients send most of a large message and stop; others are served, and memory has a bound."""
    before = rss_bytes(shared_coord_server.pid)
    body = message(bytes(2 * MIB))[:-1]
    host, _, port = shared_coord_server.endpoint.rpartition(":")
    for _ in range(3):
        with ExitStack() as stack:
            for _ in range(CLIENTS):
                client = stack.enter_context(socket.create_connection((host, int(port))))
                leave_open(client, PUT, body)
                assert call(shared_coord_server.endpoint, PUT, message(GOOD)) == OK
            # Each holds at most its message, twice while it grows; and what is gone is used again.
            assert rss_bytes(shared_coord_server.pid) < before + HELD_BYTES
