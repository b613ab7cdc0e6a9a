"""Gotchas 95-99 and 121-125: what a client is to expect, and which words it is told."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import Awaitable, Callable

import grpc
import grpc.aio
import pytest

import coord
from coord import op
from coord.wire import lock_pb2, rpc_pb2
from coord.wire import methods as rpcs
from coord_server import errors
from coord_server.errors import ErrorSpec
from tests.server.endpoint import Endpoint, error_of
from tests.server.gotchas.place import (
    Compare,
    brief,
    delete_op,
    get,
    get_op,
    put,
    put_op,
    refused,
    remove,
    txn,
)
from tests.support.proxy import Proxy
from tests.support.servers import ServerProcess, clean_environment, etcd_binary


def status(spec: ErrorSpec) -> tuple[str, str]:
    return spec.code.name, spec.message


async def test_g043_our_client_repeats_a_txn_that_only_reads(ours: Endpoint) -> None:
    (address,) = ours.server.client_addresses
    await ours.put(b"k", b"read")
    async with Proxy(str(address)) as proxy, coord.connect(proxy.endpoint) as client:
        await client.get("k")
        proxy.hold_answers()
        before = proxy.bytes_up
        call = asyncio.ensure_future(client.txn().then(op.get("k")).commit())
        async with asyncio.timeout(20):
            while proxy.bytes_up == before:
                await asyncio.sleep(0.001)
        proxy.cut()
        proxy.pass_on()
        assert [kv.value for kv in (await call).range(0).items] == [b"read"]
        assert proxy.connections == 2


Refusing = Callable[[Endpoint], Awaitable[object]]
REFUSALS: list[tuple[str, Refusing, ErrorSpec]] = [
    ("no key", lambda e: put(e, b""), errors.EMPTY_KEY),
    ("value ignored and given", lambda e: put(e, b"k", ignore_value=True), errors.VALUE_PROVIDED),
    (
        "lease ignored and given",
        lambda e: put(e, b"k", ignore_lease=True, lease=1),
        errors.LEASE_PROVIDED,
    ),
    ("nothing to keep", lambda e: put(e, b"k", b"", ignore_value=True), errors.KEY_NOT_FOUND),
    ("an operation of no kind", lambda e: txn(e, rpc_pb2.RequestOp()), errors.KEY_NOT_FOUND),
    ("too many", lambda e: txn(e, *[get_op(b"k")] * 129), errors.TOO_MANY_OPS),
    ("twice", lambda e: txn(e, put_op(b"k"), put_op(b"k")), errors.DUPLICATE_KEY),
    ("the future", lambda e: get(e, b"k", revision=99), errors.FUTURE_REV),
    ("compacted", lambda e: e.compact(-1), errors.COMPACTED),
    ("no such lease", lambda e: e.revoke(5), errors.LEASE_NOT_FOUND),
    ("too long a TTL", lambda e: e.grant(9_000_000_001), errors.LEASE_TTL_TOO_LARGE),
    ("too large", lambda e: put(e, b"k", bytes(3 << 19)), errors.REQUEST_TOO_LARGE),
]


@pytest.mark.parametrize(
    ("call", "spec"), [row[1:] for row in REFUSALS], ids=[r[0] for r in REFUSALS]
)
async def test_g121_refusals_are_worded_exactly(
    endpoint: Endpoint, call: Refusing, spec: ErrorSpec
) -> None:
    # On etcd too: this is where the words come from.
    assert await refused(call(endpoint)) == status(spec)


async def test_g121_a_lease_that_is_there_is_worded_exactly(endpoint: Endpoint) -> None:
    await endpoint.grant(60, 5)
    assert await refused(endpoint.grant(60, 5)) == status(errors.LEASE_EXIST)


@pytest.mark.processes
@pytest.mark.parametrize("tool", ["etcdctl", "coord"])
def test_g120_who_wins_an_inherited_variable(shared_coord_server: ServerProcess, tool: str) -> None:
    program = [etcd_binary("etcdctl")] if tool == "etcdctl" else [sys.executable, "-m", "coord.cli"]
    inherited = {"ETCDCTL_API": "3", "ETCD_LOCK_KEY": "inherited"}
    done = subprocess.run(
        [*program, f"--endpoints={shared_coord_server.endpoint}", "lock", tool, "--", "env"],
        capture_output=True,
        text=True,
        check=True,
        env=clean_environment(inherited),
    )
    found = re.findall(r"^ETCD_LOCK_KEY=(.*)$", done.stdout, re.MULTILINE)
    # etcdctl puts its own before the inherited environment; of two Go's children see the last.
    if tool == "etcdctl":
        assert found == ["inherited"]
    else:
        assert [key.partition("/")[0] for key in found] == [tool]
    assert re.search(r"^ETCD_LOCK_REV=\d+$", done.stdout, re.MULTILINE)


async def test_g123_too_many_requests_has_no_code(ours: Endpoint) -> None:
    ours.server._replica._proposals._max_ops = 0
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ours.put(b"k")
    assert error_of(caught.value) == ("UNKNOWN", "etcdserver: too many requests")


async def test_g124_services_answer_failures_without_a_code(endpoint: Endpoint) -> None:
    def lock(name: bytes, lease: int) -> Awaitable[object]:
        return endpoint.call(rpcs.LOCK_LOCK, lock_pb2.LockRequest(name=name, lease=lease))

    assert await refused(lock(b"m", 99)) == ("UNKNOWN", "etcdserver: requested lease not found")
    unlock = endpoint.call(rpcs.LOCK_UNLOCK, lock_pb2.UnlockRequest())
    assert await refused(unlock) == ("UNKNOWN", "etcdserver: key is not provided")


async def test_g125_the_order_of_events_is_the_order_of_changes(endpoint: Endpoint) -> None:
    lease = await endpoint.grant(60)
    watch = endpoint.watch()
    await watch.created(b"\x00", b"\x00")
    for key in (b"z", b"m", b"a"):
        await put(endpoint, key, lease=lease)
    there = Compare(key=b"m", target=Compare.VERSION, version=1)
    await txn(endpoint, put_op(b"y"), delete_op(b"a", b"n"), put_op(b"x"), when=[there])
    await remove(endpoint, b"x", b"z")
    await endpoint.revoke(lease)
    live = [brief(await watch.response()) for _ in range(6)]
    assert [[key for _, key, _ in events] for events in live[3:]] == [
        [b"y", b"a", b"m", b"x"],
        [b"x", b"y"],
        [b"z"],
    ]
    # Whoever reads it later finds the same order.
    late = endpoint.watch()
    await late.created(b"\x00", b"\x00", start_revision=2)
    read: list[tuple[int, bytes, int]] = []
    while len(read) < sum(map(len, live)):
        read += brief(await late.response())
    assert read == [event for events in live for event in events]
