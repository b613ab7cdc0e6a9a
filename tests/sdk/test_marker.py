"""Operation markers, and transactions under them: applied exactly once, whatever becomes of requests and answers."""

from __future__ import annotations

import asyncio
import random
import warnings
from collections.abc import AsyncIterator
from typing import Any

import pytest
from typing_extensions import override

import coord
from coord import compare, op
from coord.rpc import RpcError, StatusCode
from coord.store.marker import MARKER_PREFIX
from coord.store.values import LeaseGrant
from coord.testing import Call, FaultRule
from tests.sdk.conftest import STORES
from tests.support.faulty import TXN, Fault, Plan, make_faulty, put_under
from tests.support.proxy import Proxy
from tests.support.servers import ServerProcess, etcdctl
from tests.support.virtual import VirtualLoop, run_virtual, virtual_client

RANGE = "/etcdserverpb.KV/Range"
GRANT = "/etcdserverpb.Lease/LeaseGrant"


@pytest.fixture(params=[*STORES, "memory"])
async def inline(request: pytest.FixtureRequest, prefix: str) -> AsyncIterator[coord.Client]:
    """A client on the test's own loop, in a namespace of its own."""
    target = "memory:"
    if request.param != "memory":
        server: ServerProcess = request.getfixturevalue(f"{request.param}_process")
        target = server.endpoint
    async with coord.connect(target, runtime="inline", namespace=f"marker/{prefix}") as made:
        yield made


class Gated(Plan):
    """Holds the second copy of a transaction back until the gate is opened."""

    def __init__(self, client: coord.Client, fault: Fault) -> None:
        super().__init__()
        self.plan.append(fault)
        self.waiting = asyncio.Event()
        self.gate = self.hold(times=None)
        self._take_away = put_under(client, self)

    @override
    def match(self, call: Call, *, is_stream: bool) -> FaultRule | None:
        if call.path == TXN and not self.plan:
            self.waiting.set()
            return self.gate
        return super().match(call, is_stream=is_stream)

    def remove(self) -> None:
        """Let everything pass again."""
        self.gate.release()
        self._take_away()


async def add(tx: coord.StmTxn) -> int:
    value = int(await tx.get("n", b"0") or b"0") + 1
    tx.put("n", str(value))
    return value


async def version(client: coord.Client, key: str) -> int:
    found = await client.get(key)
    return 0 if found is None else found.version


def leases(client: coord.Client) -> list[int]:
    core: Any = client._core
    granted: list[int] = core.markers._granted
    return list(granted)


@pytest.mark.parametrize(
    "plan",
    [
        [Fault.LOSE_REPLY],
        [Fault.LOSE_REQUEST],
        [Fault.LATE],
        [Fault.TWICE],
        [Fault.LATE, Fault.LOSE_REPLY],
        [Fault.LOSE_REPLY, Fault.LOSE_REPLY],
        [Fault.LATE, Fault.LATE, Fault.LATE, Fault.LOSE_REQUEST, Fault.TWICE],
    ],
    ids=lambda plan: "+".join(fault.value for fault in plan),
)
async def test_applied_exactly_once(inline: coord.Client, plan: list[Fault]) -> None:
    faulty = make_faulty(inline, plan)
    done = await inline.stm(add)
    found = await inline.get("n")
    assert found is not None
    assert (found.value, found.version, found.mod_revision) == (b"1", 1, done.revision)
    assert not faulty.plan
    await faulty.deliver_late()
    assert await version(inline, "n") == 1
    assert (await inline.stm(add)).value == 2


async def test_a_late_copy_finds_the_way_barred(inline: coord.Client) -> None:
    """The copy that is under way could be applied once its conditions hold again; it must not be."""

    async def create(tx: coord.StmTxn) -> str:
        if await tx.get("k") is not None:
            return "there"
        tx.put("k", "ours")
        return "created"

    faulty = Gated(inline, Fault.LATE)
    run = asyncio.ensure_future(inline.stm(create))
    await faulty.waiting.wait()
    await inline.put("k", "theirs")
    faulty.gate.release()
    assert (await run).value == "there"
    await inline.delete("k")
    assert await faulty.deliver_late() == 1
    assert await inline.get("k") is None


async def test_random_faults(inline: coord.Client) -> None:
    chance = random.Random(20)
    faulty = make_faulty(inline)
    faults = [Fault.NONE, Fault.NONE, *Fault]
    rounds, workers = 12, 4

    async def worker() -> None:
        for _ in range(rounds):
            faulty.plan.append(chance.choice(faults))
            await inline.stm(add, max_attempts=1000)

    async with asyncio.TaskGroup() as group:
        for _ in range(workers):
            group.create_task(worker())
    faulty.plan.clear()
    await faulty.deliver_late()
    found = await inline.get("n")
    assert found is not None
    assert (int(found.value), found.version) == (rounds * workers, rounds * workers)


async def test_without_a_marker_a_lost_answer_is_told(inline: coord.Client) -> None:
    make_faulty(inline, [Fault.LOSE_REPLY])
    with pytest.raises(coord.AmbiguousResult) as caught:
        await inline.stm(add, marker=False)
    there = await caught.value.resolve()
    assert isinstance(there, coord.TxnResult)
    assert [kv.value for kv in there.range(0).items] == [b"1"]
    assert await inline.count("_coord/") == 0


@pytest.mark.parametrize(("fault", "applied"), [(Fault.LOSE_REPLY, True), (Fault.LATE, False)])
async def test_out_of_time_in_doubt(inline: coord.Client, fault: Fault, *, applied: bool) -> None:
    faulty = make_faulty(inline, [fault, *[Fault.LOSE_REQUEST] * 1000])
    with pytest.raises(coord.AmbiguousResult) as caught:
        await inline.stm(add, timeout=0.3)
    faulty.plan.clear()
    revision = await caught.value.resolve()
    found = await inline.get("n")
    assert revision == (found.mod_revision if found else None)
    assert (found is not None) == applied
    # Settled is settled: the copy that is still under way does nothing any more.
    await faulty.deliver_late()
    assert (await inline.get("n")) == found
    assert await caught.value.resolve() == revision


async def test_out_of_time_without_doubt(inline: coord.Client) -> None:
    class Down(Plan):
        @override
        def match(self, call: Call, *, is_stream: bool) -> FaultRule | None:
            if call.path == self.path:
                raise RpcError(StatusCode.UNAVAILABLE, "nobody there", sent=False)
            return None

    down = Down(TXN)
    take_away = put_under(inline, down)
    with pytest.raises(coord.StmTimeout, match="nobody there"):
        await inline.stm(add, timeout=0.3)
    down.path = RANGE
    with pytest.raises(coord.StmTimeout, match="in attempt 1"):
        await inline.stm(add, timeout=0.3)
    take_away()
    assert (await inline.stm(add)).value == 1


async def test_the_data_of_a_failed_commit_begin_the_next_attempt(inline: coord.Client) -> None:
    await inline.put("n", "1")
    await inline.stm(add)  # the lease is there
    faulty = make_faulty(inline)
    attempts = 0

    async def interrupted(tx: coord.StmTxn) -> int:
        nonlocal attempts
        attempts += 1
        value = await add(tx)
        await tx.range("jobs/")
        if attempts < 3:
            await inline.put("n", str(10 * attempts))
        return value

    done = await inline.stm(interrupted)
    assert (done.value, attempts) == (21, 3)
    reads = [path for path in faulty.paths if path == RANGE]
    commits = [path for path in faulty.paths if path == TXN]
    assert (len(reads), len(commits)) == (2, 3)


async def test_prefetched_keys_cost_one_request(inline: coord.Client) -> None:
    for name in "abc":
        await inline.put(name, "1")
    faulty = make_faulty(inline)

    async def total(tx: coord.StmTxn) -> int:
        return sum([int(await tx.get(name) or b"0") for name in "abc"])

    assert (await inline.stm(total, prefetch="abc")).value == 3
    assert faulty.paths == [TXN]
    many = [f"{n:03}" for n in range(300)]
    await inline.put("299", "7")

    async def last(tx: coord.StmTxn) -> bytes | None:
        assert await tx.get("000") is None
        return await tx.get("299")

    faulty.paths.clear()
    assert (await inline.stm(last, prefetch=many)).value == b"7"
    assert faulty.paths == [TXN] * 3


async def test_the_base_is_compacted_between_two_prefetches(inline: coord.Client) -> None:
    faulty = Gated(inline, Fault.NONE)
    names = [f"{n:03}" for n in range(130)]
    attempts = 0

    async def look(tx: coord.StmTxn) -> bytes | None:
        nonlocal attempts
        attempts += 1
        return await tx.get("000")

    run = asyncio.ensure_future(inline.stm(look, prefetch=names))
    await faulty.waiting.wait()
    revision = (await inline.put("000", "new")).revision
    await inline.compact(revision)
    faulty.gate.release()
    done = await run
    assert (done.value, attempts) == (b"new", 2)
    assert done.revision >= revision


async def test_a_silent_endpoint_does_not_take_all_the_time(endpoint: str, prefix: str) -> None:
    """Each copy of a commit has a deadline of its own, and the next one goes elsewhere."""
    async with (
        Proxy(endpoint) as one,
        Proxy(endpoint) as two,
        coord.connect(
            [one.endpoint, two.endpoint], namespace=prefix, request_timeout=0.3
        ) as client,
    ):
        await client.stm(add)
        for proxy in (one, two):
            proxy.hold_answers()

            assert (await client.stm(add)).value > 1
            proxy.pass_on()
        async with coord.connect(endpoint, namespace=prefix) as direct:
            found = await direct.get("n")
            assert found is not None
            assert (found.value, found.version) == (b"3", 3)


async def test_a_member_that_lags_is_not_believed(inline: coord.Client) -> None:
    await inline.put("a", "1")
    await inline.put("b", "2")

    class Lagging(Plan):
        """Its serializable reads of a revision meet a member that has not come so far."""

        refused = 0

        @override
        def match(self, call: Call, *, is_stream: bool) -> FaultRule | None:
            if call.path == RANGE and call.request.endswith(b"\x38\x01"):
                self.refused += 1
                text = "etcdserver: mvcc: required revision is a future revision"
                raise RpcError(StatusCode.OUT_OF_RANGE, text, sent=True)
            return None

    lagging = Lagging()
    put_under(inline, lagging)

    async def look(tx: coord.StmTxn) -> tuple[bytes | None, bytes | None]:
        return await tx.get("a"), await tx.get("b")

    assert (await inline.stm(look)).value == (b"1", b"2")
    assert lagging.refused == 1


# The shared lease.


async def test_operations_share_a_lease_which_goes_with_the_client(
    endpoint: str, prefix: str
) -> None:
    async with coord.connect(endpoint) as other:
        async with coord.connect(endpoint, namespace=prefix) as client:
            async with asyncio.TaskGroup() as group:
                for _ in range(8):
                    group.create_task(client.stm(add, max_attempts=1000))
            (lease,) = leases(client)
            keys = (await client.lease_time_to_live(lease, keys=True)).keys
            assert len(keys) == 8
            assert all(key.startswith(MARKER_PREFIX) for key in keys)
        assert await other.count(prefix + "_coord/") == 0
        assert (await other.lease_time_to_live(lease)).remaining is None


async def test_a_lease_in_doubt_leaves_no_doubt(inline: coord.Client) -> None:
    faulty = make_faulty(inline)
    faulty.path = GRANT
    faulty.plan.extend([Fault.LOSE_REQUEST] * 1000)
    with pytest.raises(coord.StmTimeout, match="no lease for an operation marker"):
        await inline.stm(add, timeout=0.3)
    assert TXN not in faulty.paths
    assert await inline.count("") == 0
    faulty.plan.clear()
    faulty.plan.extend([Fault.LOSE_REPLY, Fault.LOSE_REQUEST])
    assert (await inline.stm(add)).value == 1
    assert len(leases(inline)) == 1


async def test_the_lease_is_replaced_every_minute(inline: coord.Client) -> None:
    core: Any = inline._core

    class Clock:
        ahead = 0.0

        def mono(self) -> float:
            return float(core.env.clock.mono()) + self.ahead

    clock = core.markers._clock = Clock()
    seen: list[int] = []
    for _ in range(4):
        await inline.stm(add)
        clock.ahead += 31
        await inline.stm(add)
        seen.append(leases(inline)[-1])
        clock.ahead += 31
    assert len(set(seen)) == 4
    assert leases(inline) == seen[-2:]
    assert await version(inline, "n") == 8


async def test_a_lease_that_is_gone_is_replaced(inline: coord.Client) -> None:
    await inline.stm(add)
    (lease,) = leases(inline)
    await inline.lease_revoke(lease)
    assert (await inline.stm(add)).value == 2
    assert leases(inline)[-1] != lease


@pytest.mark.parametrize("fault", [Fault.LOSE_REPLY, Fault.LOSE_REQUEST])
async def test_a_lease_that_ends_in_doubt_takes_the_evidence_along(
    inline: coord.Client, fault: Fault
) -> None:
    await inline.stm(add)
    (lease,) = leases(inline)
    faulty = Gated(inline, fault)
    run = asyncio.ensure_future(inline.stm(add))
    await faulty.waiting.wait()
    await inline.lease_revoke(lease)
    faulty.gate.release()
    with pytest.raises(coord.AmbiguousResult) as caught:
        await run
    with pytest.raises(coord.LeaseNotFound):
        await caught.value.resolve()
    assert await version(inline, "n") == (2 if fault is Fault.LOSE_REPLY else 1)


async def test_a_refusal_in_doubt_is_no_answer(inline: coord.Client) -> None:
    """The first copy is applied and revokes its own excuse: the second one is refused for another reason."""
    lease = await inline.lease_grant(60)
    await inline.stm(add)

    async def write(tx: coord.StmTxn) -> None:
        tx.put("k", "x", lease=lease.id)

    for fault, applied in ((Fault.LOSE_REPLY, True), (Fault.LOSE_REQUEST, False)):
        lease = await inline.lease_grant(60)
        faulty = Gated(inline, fault)
        run = asyncio.ensure_future(inline.stm(write))
        await faulty.waiting.wait()
        await inline.lease_revoke(lease.id)
        faulty.gate.release()
        if applied:
            assert (await run).revision > 0
        else:
            with pytest.raises(coord.LeaseNotFound):
                await run
        faulty.remove()


# Rights.


class Denying(Plan):
    """A store whose user may not write under ``_coord/``."""

    denied = 0

    @override
    def match(self, call: Call, *, is_stream: bool) -> FaultRule | None:
        if b"_coord/" in call.request:
            self.denied += 1
            text = "etcdserver: permission denied"
            raise RpcError(StatusCode.PERMISSION_DENIED, text, sent=True)
        return super().match(call, is_stream=is_stream)


async def test_without_the_right_to_markers(inline: coord.Client) -> None:
    denying = Denying()
    put_under(inline, denying)
    with pytest.warns(coord.RightsWarning, match="without operation markers"):
        assert (await inline.stm(add)).value == 1
    with warnings.catch_warnings(record=True, action="always") as again:
        assert (await inline.stm(add)).value == 2
    assert again == []
    assert denying.denied == 1
    denying.plan.append(Fault.LOSE_REPLY)
    with pytest.raises(coord.AmbiguousResult) as caught:
        await inline.stm(add)
    there = await caught.value.resolve()
    assert isinstance(there, coord.TxnResult)
    assert [kv.value for kv in there.range(0).items] == [b"3"]


@pytest.mark.parametrize("has_right", [True, False])
async def test_rights_as_etcd_sees_them(etcd: ServerProcess, *, has_right: bool) -> None:
    granted = ["app/", "_coord/"] if has_right else ["app/"]
    for words in (
        ["user", "add", "root:secret"],
        ["user", "grant-role", "root", "root"],
        ["role", "add", "app"],
        *[["role", "grant-permission", "app", "readwrite", "--prefix", p] for p in granted],
        ["user", "add", "ann:secret"],
        ["user", "grant-role", "ann", "app"],
        ["auth", "enable"],
    ):
        done = etcdctl(etcd.endpoint, *words)
        assert done.returncode == 0, done.stderr
    async with coord.connect(
        etcd.endpoint, runtime="inline", user="ann", password="secret"
    ) as client:
        seen = make_faulty(client)

        async def body(tx: coord.StmTxn) -> int:
            value = int(await tx.get("app/n", b"0") or b"0") + 1
            tx.put("app/n", str(value))
            return value

        if has_right:
            assert (await client.stm(body)).value == 1
        else:
            with pytest.warns(coord.RightsWarning, match="without operation markers"):
                assert (await client.stm(body)).value == 1
        seen.paths.clear()
        assert (await client.stm(body)).value == 2
        assert seen.paths.count(TXN) == 1

        async def elsewhere(tx: coord.StmTxn) -> None:
            tx.put("other", "x")

        with pytest.raises(coord.PermissionDenied):
            await client.stm(elsewhere)


# Below the transactions: what other recipes use.


async def test_marked_transactions(inline: coord.Client) -> None:
    markers = inline._core.markers
    create = ((compare.missing("k"),), (op.put("k", "1"),), (op.get("k"),))
    won = await markers.run(*create)
    assert won.applied
    assert won.result is not None
    lost = await markers.run(*create)
    assert not lost.applied
    assert lost.result is not None
    assert [kv.value for kv in lost.result.range(0).items] == [b"1"]
    with pytest.raises(coord.RequestRefused, match="duplicate key"):
        await markers.run((), (op.put("k", "1"), op.put("k", "2")))


async def test_cancelled_at_every_turn(inline: coord.Client) -> None:
    """All of it or nothing, and the next one goes on from there."""

    async def both(tx: coord.StmTxn) -> None:
        a, b = await tx.get("a", b"0"), await tx.get("b", b"0")
        tx.put("a", str(int(a or b"") + 1))
        tx.put("b", str(int(b or b"") + 1))

    for step in range(1000):
        task = asyncio.ensure_future(inline.stm(both))
        for _ in range(step):
            await asyncio.sleep(0)
        if task.done():
            await task
            break
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        # In one read: what was cancelled may still be on its way.
        pairs = (await inline.get_range("a", "c")).items
        assert len({kv.value for kv in pairs}) == len({kv.mod_revision for kv in pairs}) <= 1
        assert len(pairs) in (0, 2)
    else:
        pytest.fail("it never finished")
    await inline.stm(both)


def test_the_time_for_a_lease_is_part_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    async def unanswered(*_: object, timeout: float) -> LeaseGrant:
        await asyncio.sleep(timeout)
        raise coord.CoordTimeout("LeaseGrant", timeout)

    async def main(loop: VirtualLoop) -> None:
        async with virtual_client(loop) as client:
            monkeypatch.setattr(client._core.leases, "grant", unanswered)
            client._core.markers.request_timeout = 1.5

            async def add(later: float) -> float:
                await asyncio.sleep(later)
                began = loop.time()
                with pytest.raises(coord.CoordTimeout):
                    await client.counter("c").add(timeout=2.0)
                return loop.time() - began

            async with asyncio.TaskGroup() as group:
                adds = [group.create_task(add(later)) for later in (0.0, 0.1, 0.2)]
            assert max(each.result() for each in adds) <= 2.001

    run_virtual(main)
