"""The keys of every recipe, as they stand in the store: what other clients and later releases of ours rely on.

Each layout is written as a dump of all the keys that its block makes: the key, ``*`` if it has a lease, and the value.
What differs from run to run is a letter: ``L`` a lease id in hexadecimal, ``I`` what tells one attempt from all others,
``R`` a revision, ``D`` a date, ``META`` what an entry of ours says of its owner. ``_coord/op/I`` are markers of transactions.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime

import pytest

import coord
from tests.interop.gopeers import BUILD_WITHIN_S, go_peer
from tests.support.faulty import Fault, make_faulty
from tests.support.lines import lined_up

pytestmark = [pytest.mark.etcd, pytest.mark.processes]

Maker = Callable[[coord.Client, str], AbstractAsyncContextManager[None]]
MARKER = "_coord/op/I *"
LAYOUTS: list[tuple[str, Maker, tuple[str, ...]]] = []

_META = re.compile(
    r'\{"v":1,"nonce":"[0-9a-f]{16}","owner":"[^"]+","host":"[^"]+","pid":\d+,"since":[\d.]+\}'
)
# Not the padded numbers of queues, which are decimal.
_ATTEMPT = re.compile(r"(L-)?(?<![0-9a-f])(?!000\d{13})[0-9a-f]{16}(?![0-9a-f])")
_RUN = [
    (re.compile(r"members/.+-[0-9a-f]{16}"), "members/I"),
    (re.compile(r'"salt":"[0-9a-f]+"'), '"salt":"S"'),
    (re.compile(r'"host":"[^"]+","pid":\d+'), '"host":"H","pid":P'),
    (re.compile(r"\b1[7-9]\d{11}\b"), "T"),
    (re.compile(r"\b\d{8}T\d{6}(\.\d{3})?Z"), "D"),
    (re.compile(r'"(since|tat_us|now_us)":[\d.]+'), r'"\1":T'),
    (re.compile(r'(history/|audit/NAME/|held:|"(?:revision|token|term)": ?)\d+'), r"\1R"),
]


def layout(
    *expected: str,
) -> Callable[[Callable[[coord.Client, str], AsyncGenerator[None]]], None]:
    """Say what there is in the store while the block that this decorates is held."""

    def note(function: Callable[[coord.Client, str], AsyncGenerator[None]]) -> None:
        LAYOUTS.append((function.__name__, contextlib.asynccontextmanager(function), expected))

    return note


async def dump(client: coord.Client, name: str, *, since: int) -> list[str]:
    """All keys of ``name`` that are younger than ``since``, in order; markers count once."""
    found = (await client.get_range(b"\0", b"\0", min_create_revision=since + 1)).items
    lines: dict[str, None] = {}
    leases = {f"{kv.lease:x}" for kv in found if kv.lease}
    leases.add(f"{(await client.default_session()).lease_id:x}")
    for kv in found:
        if name.encode() not in kv.key and not kv.key.startswith(b"_coord/op/"):
            continue
        key = plain(kv.key.decode(), name, leases)
        star = " *" if kv.lease else ""
        value = plain(kv.value.decode(), name, leases)
        lines[f"{key}{star}" + f" {value}" * bool(value)] = None
    return sorted(lines)


def plain(text: str, name: str, leases: set[str]) -> str:
    """Put letters in the place of what differs from run to run."""
    text = _META.sub("META", text.replace(name, "NAME"))
    for lease in leases:
        text = text.replace(lease, "L")
    for pattern, letter in _RUN:
        text = pattern.sub(letter, text)
    return _ATTEMPT.sub("I", text)


# What Go's clients know.


@layout("NAME/L * META")
async def mutex(client: coord.Client, name: str) -> AsyncGenerator[None]:
    async with client.mutex(name).hold():
        yield


@layout("NAME/a/L * META", "NAME/b/L * META")
async def multi_lock(client: coord.Client, name: str) -> AsyncGenerator[None]:
    async with client.multi_lock([f"{name}/a", f"{name}/b"]).hold():
        yield


@layout("NAME/L * proposal")
async def election(client: coord.Client, name: str) -> AsyncGenerator[None]:
    async with client.election(name).lead("proposal"):
        yield


@layout("NAME/read/I * META")
async def rwlock_read(client: coord.Client, name: str) -> AsyncGenerator[None]:
    async with client.rwlock(name).read().hold():
        yield


@layout("NAME/write/I * META")
async def rwlock_write(client: coord.Client, name: str) -> AsyncGenerator[None]:
    async with client.rwlock(name).write().hold():
        yield


@layout("NAME/read/I * META", "NAME/write/I * META")
async def rwlock_downgradable(client: coord.Client, name: str) -> AsyncGenerator[None]:
    async with client.rwlock(name).write(downgradable=True).hold():
        yield


@layout("NAME I", MARKER)
async def barrier(client: coord.Client, name: str) -> AsyncGenerator[None]:
    await client.barrier(name).hold()
    yield


@layout("NAME * I")
async def barrier_leased(client: coord.Client, name: str) -> AsyncGenerator[None]:
    await client.barrier(name).hold(leased=True)
    yield


@layout("NAME/ready", "NAME/waiters/I *")
async def double_barrier(client: coord.Client, name: str) -> AsyncGenerator[None]:
    async with client.double_barrier(name, 1).joined():
        yield


@layout("NAME/I item", MARKER)
async def queue(client: coord.Client, name: str) -> AsyncGenerator[None]:
    async with client.queue(name) as made:
        await made.put("item")
        yield


@layout(
    "NAME/00100/0000000000000000 first",
    "NAME/00100/0000000000000001 second",
    "__NAME/00100",
    MARKER,
)
async def priority_queue(client: coord.Client, name: str) -> AsyncGenerator[None]:
    async with client.priority_queue(name) as made:
        await made.put("first")
        await made.put("second", priority=100)
        yield


@layout(
    'NAME/10.0.0.1:80 * {"Op":0,"Addr":"10.0.0.1:80","Metadata":{"id":"10.0.0.1:80",'
    '"nonce":"I","weight":2,"zone":"z","version":"1.0","tags":["a"],"health":"serving","shard":"s",'
    '"endpoints":{"admin":"10.0.0.1:81"},"since":T,"own":1}}'
)
async def registry(client: coord.Client, name: str) -> AsyncGenerator[None]:
    async with client.registry(name).register(
        "10.0.0.1:80",
        weight=2,
        zone="z",
        version="1.0",
        tags=["a"],
        shard="s",
        endpoints={"admin": "10.0.0.1:81"},
        metadata={"own": 1},
    ):
        yield


@layout("NAME/key value", MARKER)
async def stm(client: coord.Client, name: str) -> AsyncGenerator[None]:
    async def write(tx: coord.StmTxn) -> None:
        tx.put(f"{name}/key", "value")

    await client.stm(write)
    yield


# What is ours alone.


@layout("NAME 42", MARKER)
async def counter(client: coord.Client, name: str) -> AsyncGenerator[None]:
    await client.counter(name, initial=40).add(2)
    yield


@layout("NAME/0 1", MARKER)
async def sharded_counter(client: coord.Client, name: str) -> AsyncGenerator[None]:
    await client.sharded_counter(name, shards=1).add()
    yield


@layout("NAME 1000", MARKER)
async def id_allocator(client: coord.Client, name: str) -> AsyncGenerator[None]:
    await client.id_allocator(name).next()
    yield


@layout("NAME value", MARKER)
async def atomic(client: coord.Client, name: str) -> AsyncGenerator[None]:
    await client.atomic(name).compare_and_set(0, b"value")
    yield


@layout("NAME * META")
async def single_key(client: coord.Client, name: str) -> AsyncGenerator[None]:
    async with client.mutex(name, layout="single-key").hold():
        yield


@layout('NAME/holders/I * {"permits":2,"state":"granted","meta":META}', "NAME/limit 3")
async def semaphore(client: coord.Client, name: str) -> AsyncGenerator[None]:
    async with client.semaphore(name, limit=3).hold(2):
        yield


@layout("NAME 1 1", "NAME/arrived/me")
async def latch(client: coord.Client, name: str) -> AsyncGenerator[None]:
    await client.latch(name, 2).count_down("me")
    yield


@layout("NAME/0001893456000000-I item", MARKER)
async def delay_queue(client: coord.Client, name: str) -> AsyncGenerator[None]:
    async with client.delay_queue(name) as made:
        await made.put("item", at=datetime(2030, 1, 1, tzinfo=UTC).timestamp())
        yield


@layout(
    'NAME/attempts/00002-works {"n":1,"last_error":""}',
    'NAME/claims/00002-works * {"v":1,"nonce":"I","host":"H","pid":P,"since":T}',
    'NAME/conf {"v":1,"max_attempts":1,"claim":"session","visibility":0,"dedup_window":60}',
    "NAME/consumers/L *",
    'NAME/dead/00001-dies {"value":"ZGllcw==","attempts":1,"last_error":"too hard"}',
    "NAME/delay/00003-waits T",
    'NAME/done/00000-ends * {"token":R}',
    "NAME/items/00002-works works",
    "NAME/items/00003-waits waits",
    MARKER,
)
async def work_queue(client: coord.Client, name: str) -> AsyncGenerator[None]:
    async with client.work_queue(name, max_attempts=1) as made:
        await made.put("dies", dedup_id="dies", priority=1)
        await made.put("works", dedup_id="works", priority=2)
        await made.put("waits", dedup_id="waits", priority=3, delay=3600)
        await made.put("ends", dedup_id="ends", priority=0)
        ended, died, _ = await made.receive(max=3)
        await ended.ack()
        await died.nack(delay=0, reason="too hard")
        while not await made.dead_letters():
            with contextlib.suppress(coord.ReceiveTimeout):
                await made.receive(timeout=0.2)
        yield


@layout('NAME/me * {"nonce":"I","data":{"port":80}}')
async def membership(client: coord.Client, name: str) -> AsyncGenerator[None]:
    async with client.membership(name).join("me", data={"port": 80}):
        yield


@layout('NAME/members/I * {"nonce":"I","data":{"weight":1}}', "NAME/owners/0 * META")
async def partitioner(client: coord.Client, name: str) -> AsyncGenerator[None]:
    async def work(own: coord.Ownership) -> None:
        await own.lost.wait()

    made = client.partitioner(name, 1, settle=0)
    async with made.run(work):
        async for owned in made.watch():
            if owned:
                break
        yield


@layout(
    'NAME/cursors/me * {"revision":R,"lag":0.0}',
    'NAME/log/I * {"kind":"news"}\nmessage',
    MARKER,
)
async def topic(client: coord.Client, name: str) -> AsyncGenerator[None]:
    made = client.topic(name)
    async with made.subscribe(from_="earliest", durable="me") as subscription:
        await made.publish("message", headers={"kind": "news"})
        async for message in subscription:
            if isinstance(message, coord.Message):  # and no gap
                await message.commit()
                break
        yield


@layout(
    'NAME {"a":2}',
    'NAME/canary {"percent":50,"salt":"S","value":{"a":3}}',
    'NAME/history/R {"a":1}',
    MARKER,
)
async def config(client: coord.Client, name: str) -> AsyncGenerator[None]:
    async with await client.config(name, dict[str, int], default={}) as made:
        await made.publish({"a": 1})
        await made.publish({"a": 2})
        await made.canary({"a": 3}, 50)
        yield


@layout(
    'NAME/jobs/j {"v":1,"schedule":"@at 2100-01-01T00:00","tz":"UTC","policy":"at_most_once","retries":3,'
    '"misfire":"once","misfire_limit":10,"misfire_grace":60.0,"overlap":false,"timeout":null,"jitter":0.0,'
    '"paused":false,"payload":{"to":"a"},"since":"D","asked":["D"]}',
    "NAME/leader/L *",
    'NAME/state/j {"v":1,"last_tick":"","last_asked":"D","running":{"D":{"attempt":1}}}',
    'NAME/ticks/j/D * {"v":1,"nonce":"I","outcome":"running","attempt":1,"host":"H","pid":P,"started_at":"D"}',
    MARKER,
)
async def cron(client: coord.Client, name: str) -> AsyncGenerator[None]:
    began = asyncio.Event()

    async def work(tick: coord.Tick) -> None:
        began.set()
        await tick.lost.wait()

    made = client.cron(name, ownership="elected")
    await made.add(coord.Job(name="j", schedule="@at 2100-01-01T00:00", payload={"to": "a"}))
    running = asyncio.ensure_future(made.run(work, grace=0))
    try:
        await made.run_now("j")
        await began.wait()
        yield
    finally:
        running.cancel()
        await asyncio.wait([running])


@layout("NAME/a 1", "NAME/b 2", MARKER)
async def config_tree(client: coord.Client, name: str) -> AsyncGenerator[None]:
    async with await client.config(name, dict[str, int], default={}, tree=True) as made:
        await made.publish({"a": 1, "b": 2})
        yield


@layout('NAME {"rate":10.0,"burst":5.0,"tat_us":T,"now_us":T,"mode":"strict"}', MARKER)
async def rate_limiter(client: coord.Client, name: str) -> AsyncGenerator[None]:
    await client.rate_limiter(name, 10, burst=5).acquire()
    yield


# What recipes keep beside.


@layout(
    '_coord/audit/NAME/R {"reason": "stuck", "key": "NAME/L"}',
    "_coord/clean/NAME held:R",
)
async def bookkeeping_of_a_lock(client: coord.Client, name: str) -> AsyncGenerator[None]:
    made = client.mutex(name, lock_delay=1)
    await (await made.acquire()).release()
    grant = await made.acquire()
    await made.break_lock(grant.token, reason="stuck")
    yield


@layout("_coord/consumers/NAME/L *")
async def bookkeeping_of_a_queue(client: coord.Client, name: str) -> AsyncGenerator[None]:
    async with client.queue(name) as made:
        with contextlib.suppress(coord.QueueEmpty):
            await made.get(timeout=0.2)
        yield


async def test_a_transfer_is_announced(client: coord.Client, name: str) -> None:
    election = client.election(name)
    async with client.session() as other:
        term = await election.campaign("one")
        rival = asyncio.ensure_future(client.election(name, session=other).campaign("two"))
        await lined_up(client, name, 2)
        target = (await election.candidates())[1].key
        async with client.watch(f"_coord/transfer/{name}") as watch:
            await term.transfer(to=target)
            event = await anext(watch)
        leases = {f"{term.session.lease_id:x}", f"{other.lease_id:x}"}
        assert event.kv.lease == term.session.lease_id
        assert (
            plain(event.kv.value.decode(), name, leases)
            == '{"v": 1, "to": "NAME/L", "token": R, "from": "NAME/L", "term": R}'
        )
        await (await rival).resign()


async def test_a_release_after_an_unanswered_request_closes_a_gate(
    endpoint: str, name: str
) -> None:
    async with coord.connect(endpoint, runtime="inline") as client:
        since = (await client.put("now", "")).revision
        await client.default_session()
        make_faulty(client, [Fault.LOSE_REPLY])
        grant = await client.mutex(name).acquire()
        await grant.release()
        assert await dump(client, name, since=since) == ["_coord/gate/L/NAME *"]


@pytest.mark.parametrize(
    ("make", "expected"), [pytest.param(make, golden, id=name) for name, make, golden in LAYOUTS]
)
async def test_layout(
    client: coord.Client, name: str, make: Maker, expected: tuple[str, ...]
) -> None:
    since = (await client.put("now", "")).revision
    async with make(client, name):
        found = await dump(client, name, since=since)
    assert found == sorted(expected)


OF_GO: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "mutex": (("lock NAME",), ("NAME/L *",)),
    "election": (("campaign NAME proposal",), ("NAME/L * proposal",)),
    "rwlock_read": (("read NAME",), ("NAME/read/I *",)),
    "rwlock_write": (("write NAME",), ("NAME/write/I *",)),
    "barrier": (("close NAME",), ("NAME",)),
    "double_barrier": (("enter NAME 1",), ("NAME/ready", "NAME/waiters/I *")),
    "queue": (("put NAME item",), ("NAME/I item",)),
    "priority_queue": (
        ("put-urgent NAME 100 first second",),
        (
            "NAME/00100/0000000000000000 first",
            "NAME/00100/0000000000000001 second",
            "__NAME/00100",
        ),
    ),
    "registry": (
        ('add-endpoint NAME NAME/10.0.0.1:80 10.0.0.1:80 {"own":1}',),
        ('NAME/10.0.0.1:80 * {"Op":0,"Addr":"10.0.0.1:80","Metadata":{"own":1}}',),
    ),
}


@pytest.mark.timeout(BUILD_WITHIN_S)
@pytest.mark.parametrize("recipe", OF_GO)
async def test_go_has_the_same_layout(
    client: coord.Client, endpoint: str, name: str, recipe: str
) -> None:
    """The same keys, leased or not as ours; values differ where Go leaves them empty."""
    steps, expected = OF_GO[recipe]
    since = (await client.put("now", "")).revision
    async with go_peer(endpoint) as peer:
        for step in steps:
            await peer.do(step.replace("NAME", name))
        found = await dump(client, name, since=since)
    # What tells attempts apart is a time in Go.
    assert [re.sub(r"/\d{19}\b", "/I", line) for line in found] == sorted(expected)
    (ours,) = (layout for known, _, layout in LAYOUTS if known == recipe)
    assert [keys_of(line) for line in sorted(expected)] == [
        keys_of(line) for line in ours if line != MARKER
    ]


def keys_of(line: str) -> tuple[str, bool]:
    """The key, and whether it has a lease."""
    key, _, rest = line.partition(" ")
    return key, rest.startswith("*")
