"""kill -9 while the store tidies up: compaction, expiry of leases, defragmentation, snapshots.

After every kill the history is replayed against what writers were told, and the store's hash is compared
with that of the sequential model which has seen the same history. ``COORD_KILL_MAINTENANCE_CYCLES``
(default 6) and ``COORD_KILL_SEED`` make longer and other runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import random
import subprocess
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import TypeAlias

import grpc
import grpc.aio
import pytest

import coord
from coord.testing.check.ledger import Ledger, Write
from coord.testing.model import Change, Model, Version
from coord.wire import methods as rpcs
from coord.wire import rpc_pb2 as pb
from tests.chaos.writers import Answers, Writer
from tests.support.servers import (
    ServerDied,
    ServerProcess,
    coord_server_process,
    end,
    free_port,
    start_coord_server,
)

CYCLES = int(os.environ.get("COORD_KILL_MAINTENANCE_CYCLES", "6"))
SEED = int(os.environ.get("COORD_KILL_SEED", "0")) or random.SystemRandom().getrandbits(32)
WRITERS = 4
KINDS: tuple[str, ...] = ("compact", "expire", "defragment", "snapshot")
# Where the server kills itself, and at which visit at most.
POINTS = {
    "compact": {"compact.step": 12, "flush.before_write": 8, "flush.after_write": 8},
    "expire": {"wal.before_append": 60, "wal.after_append": 60, "flush.after_write": 20},
    "defragment": {"defragment.before_swap": 2, "defragment.after_swap": 2},
    "snapshot": {"snapshot.writing": 3, "flush.after_write": 8},
}
# One and a half election timeouts of 100 ms, rounded up.
SHORT_TTL = 1
Stream: TypeAlias = "grpc.aio.UnaryStreamMultiCallable[bytes, bytes]"
Unary: TypeAlias = "grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]"


class Server:
    """One data directory, one port, and the process that is killed and started again."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._port = free_port()
        self.process: ServerProcess | None = None

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self._port}"

    def start(self, failpoint: str | None = None) -> None:
        """Start; a failpoint may kill it on the way, then once more without."""
        flags = (
            "--heartbeat-interval=10",
            "--election-timeout=100",
            "--backend-batch-limit=20",
            "--compaction-batch-limit=5",
        )
        env = {} if failpoint is None else {"COORD_SERVER_FAILPOINTS": failpoint}
        listen = f"http://{self.endpoint}"
        try:
            self.process = start_coord_server(self.directory, *flags, listen=listen, env=env)
        except ServerDied:
            if failpoint is None:
                raise
            self.process = start_coord_server(self.directory, *flags, listen=listen)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        text = self.process.log_text()
        assert "Traceback" not in text, text
        assert '"level":"error"' not in text, text

    async def died(self, within: float) -> None:
        """Wait until it has killed itself; if it does not, kill it."""
        assert self.process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            await asyncio.to_thread(self.process.process.wait, within)
        self.kill()

    def leftovers(self) -> list[str]:
        """Files of work that no longer goes on."""
        return [
            path.name for path in (self.directory / "data").rglob("*.tmp") if "wal" not in str(path)
        ]


@contextlib.asynccontextmanager
async def channel_to(endpoint: str) -> AsyncGenerator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(endpoint) as channel:
        yield channel


async def hash_kv(endpoint: str, revision: int) -> pb.HashKVResponse:
    async with channel_to(endpoint) as channel:
        multi: Unary = channel.unary_unary(rpcs.MAINTENANCE_HASH_KV.path)
        request = pb.HashKVRequest(revision=revision)
        data = await multi(request.SerializeToString(), timeout=30)
        return pb.HashKVResponse.FromString(data)


async def save_snapshot(endpoint: str) -> bytes:
    """A whole snapshot as a client saves it. Raises AioRpcError."""
    async with channel_to(endpoint) as channel:
        multi: Stream = channel.unary_stream(rpcs.MAINTENANCE_SNAPSHOT.path)
        answers = multi(b"", timeout=30)
        blobs = [pb.SnapshotResponse.FromString(data).blob async for data in answers]
    content = b"".join(blobs[:-1])
    assert blobs[-1] == hashlib.sha256(content).digest()
    return content + blobs[-1]


class Run:
    """All cycles over one data directory."""

    def __init__(self, server: Server, rng: random.Random) -> None:
        self.server = server
        self.rng = rng
        self.ledger = Ledger()
        self.model = Model()
        self.short: dict[int, bytes] = {}
        self.target = -1
        self.finished = dict.fromkeys(KINDS, 0)
        self.kills: dict[str, int] = {}

    async def all_cycles(self, cycles: int) -> None:
        await asyncio.to_thread(self.server.start)
        async with (
            coord.connect(self.server.endpoint, runtime="inline", request_timeout=30) as observer,
            observer.watch(b"", prefix=True, start_revision=2) as watch,
        ):
            kinds = [KINDS[number % len(KINDS)] for number in range(cycles)]
            self.rng.shuffle(kinds)
            for kind in kinds:
                point = self.choose_point(kind)
                if point is not None:
                    # It may fire at once, so nothing is checked on this server.
                    self.server.kill()
                    await asyncio.to_thread(self.server.start, point)
                await self.cycle(observer, watch, kind, point)

    def choose_point(self, kind: str) -> str | None:
        if self.rng.random() < 0.4:
            return None
        name, visits = self.rng.choice(sorted(POINTS[kind].items()))
        return f"{name}=crash@{self.rng.randrange(visits) + 1}"

    async def cycle(
        self,
        observer: coord.Client,
        watch: coord.Watch,
        kind: str,
        point: str | None,
    ) -> None:
        self.target = max(
            self.model.compact_revision, self.ledger.revision - self.rng.randrange(30)
        )
        name = f"{kind} {(point or 'outside').partition('=')[0]}"
        self.kills[name] = self.kills.get(name, 0) + 1
        async with coord.connect(
            self.server.endpoint, runtime="inline", request_timeout=5
        ) as client:
            stop, answers = asyncio.Event(), Answers()
            async with asyncio.TaskGroup() as group:
                for number in range(WRITERS):
                    writer = Writer(client, self.ledger, number, self.rng)
                    group.create_task(writer.run(stop, answers))
                group.create_task(self.lease_keys(client, stop))
                await self.until_dead(client, kind, point, answers)
                stop.set()
                await asyncio.to_thread(self.server.start)
        async with asyncio.timeout(60):
            await self.catch_up(observer, watch)
            await self.check(observer)

    async def lease_keys(self, client: coord.Client, stop: asyncio.Event) -> None:
        """Hang keys on leases that nobody renews."""
        while not stop.is_set():
            lease = self.rng.getrandbits(62) + 1
            keys = [b"short/%d" % n for n in self.rng.sample(range(20), 3)]
            with contextlib.suppress(coord.CoordError, TimeoutError):
                await client.lease_grant(SHORT_TTL, lease_id=lease)
                self.short[lease] = b""
                self.ledger.doubt(Write(revokes=lease))
                for key in keys:
                    await self.put_leased(client, key, lease)
                await asyncio.sleep(self.rng.uniform(0, 0.1))

    async def put_leased(self, client: coord.Client, key: bytes, lease: int) -> None:
        write = Write(puts={key: (b"s", lease)})
        try:
            revision = (await client.put(key, b"s", lease=lease)).revision
        except coord.AmbiguousResult:
            self.ledger.doubt(write)
            raise
        self.ledger.acknowledge(write, revision)

    async def until_dead(
        self, client: coord.Client, kind: str, point: str | None, answers: Answers
    ) -> None:
        """Let the writers work and the store tidy up, and see to it that the server dies in it."""
        assert self.server.process is not None
        process = self.server.process.process
        async with asyncio.TaskGroup() as group:
            warm = group.create_task(answers.reach(self.rng.randrange(100, 250)))
            while not warm.done() and process.poll() is None:  # a failpoint may be quicker
                await asyncio.wait({warm}, timeout=0.02)
            warm.cancel()
            task = group.create_task(self.tidy(client, kind))
            if point is not None:
                await self.server.died(3.0)
            else:
                span = {"expire": 2.0, "compact": 0.4}.get(kind, 0.06)
                await asyncio.sleep(
                    self.rng.uniform(0, span)
                )  # a random moment is what is asked for
                self.server.kill()
            task.cancel()

    async def tidy(self, client: coord.Client, kind: str) -> None:
        """Do one kind of maintenance again and again until the server is gone."""
        with contextlib.suppress(coord.CoordError, TimeoutError, grpc.aio.AioRpcError):
            while True:
                if kind == "compact":
                    await client.compact(self.target, physical=True, timeout=2)
                    self.finished[kind] += 1
                    return
                if kind == "defragment":
                    async with channel_to(self.server.endpoint) as channel:
                        multi: Unary = channel.unary_unary(rpcs.MAINTENANCE_DEFRAGMENT.path)
                        await multi(b"", timeout=5)
                elif kind == "snapshot":
                    await save_snapshot(self.server.endpoint)
                else:
                    await asyncio.sleep(0.1)
                self.finished[kind] += 1

    async def catch_up(self, observer: coord.Client, watch: coord.Watch) -> None:
        """Take everything that has happened into ledger and model."""
        revision = (await observer.get_prefix(b"", limit=1)).revision
        events: list[coord.WatchEvent] = []
        while revision > self.ledger.revision and (not events or events[-1].revision < revision):
            events.append(await anext(watch))
            # The rest of its revision comes in the same batch.
            while watch._events:
                events.append(await anext(watch))
        self.ledger.replay(events)
        self.ledger.settle()
        for event in events:
            kv = event.kv
            now = (
                Version(kv.value, kv.create_revision, kv.mod_revision, kv.version, kv.lease)
                if event.type is coord.EventType.PUT
                else None
            )
            self.model.changes.append(Change(event.revision, event.key, now, None))
        self.model.revision = self.ledger.revision
        # What is still there may go at any time from now on.
        alive = {kv.lease for kv in self.ledger.state.values()}
        self.short = {lease: key for lease, key in self.short.items() if lease in alive}
        for lease in self.short:
            self.ledger.doubt(Write(revokes=lease))

    async def check(self, observer: coord.Client) -> None:
        ledger, model, rng = self.ledger, self.model, self.rng
        now = ledger.revision
        present = await observer.get_prefix(b"", revision=now)
        assert {kv.key: kv for kv in present.items} == ledger.state
        answer = await hash_kv(self.server.endpoint, now)
        # Whether a compaction without an answer was done is for the store to say.
        assert answer.compact_revision in {model.compact_revision, self.target}
        model.compact_revision = answer.compact_revision
        assert answer.header.revision >= now
        assert answer.hash == model.hash_kv(now)
        for _ in range(3):
            revision = rng.randint(max(model.compact_revision, 1), now)
            assert (await hash_kv(self.server.endpoint, revision)).hash == model.hash_kv(revision)
        assert self.server.leftovers() == []


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.timeout(60 + CYCLES * 10)
async def test_killed_while_tidying_up(tmp_path: Path) -> None:
    print(f"COORD_KILL_SEED={SEED} COORD_KILL_MAINTENANCE_CYCLES={CYCLES}")
    rng = random.Random(SEED)
    server = Server(tmp_path / "victim")
    run = Run(server, rng)
    begun = time.monotonic()
    try:
        await run.all_cycles(CYCLES)
        saved = await save_snapshot(server.endpoint)
    finally:
        if server.process is not None:
            end(server.process)
    # What the survivor gives away is whole, too.
    file = tmp_path / "saved.db"
    file.write_bytes(saved)
    with coord_server_process(tmp_path / "heir", f"--coord-restore-snapshot={file}") as heir:
        answer = await hash_kv(heir.endpoint, run.model.revision)
        assert answer.hash == run.model.hash_kv(run.model.revision)
    print(
        f"{CYCLES} cycles in {time.monotonic() - begun:.0f} s: {run.ledger.acknowledged} writes"
        f" acknowledged, {run.ledger.unknown_applied} unknown ones applied, revision"
        f" {run.model.revision}, compacted {run.model.compact_revision}, done {run.finished},"
        f" kills {run.kills}"
    )
    assert run.ledger.acknowledged > CYCLES
