"""kill -9 of the server at any moment: what was acknowledged is there, what is there was asked for, once.

``COORD_KILL_CYCLES`` (default 8) and ``COORD_KILL_SEED`` make longer and other runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import coord
from coord.testing.check.ledger import Ledger
from tests.chaos.writers import LEASE_TTL, Answers, Writer
from tests.support.servers import (
    ServerDied,
    ServerProcess,
    coord_server_command,
    end,
    free_port,
    start_coord_server,
)

CYCLES = int(os.environ.get("COORD_KILL_CYCLES", "8"))
SEED = int(os.environ.get("COORD_KILL_SEED", "0")) or random.SystemRandom().getrandbits(32)
WRITERS = 8
_POINTS = ("wal.before_append", "wal.after_append", "flush.before_write", "flush.after_write")


@dataclass(slots=True)
class Figures:
    """What a run did."""

    kills: dict[str, int] = field(default_factory=dict[str, int])
    events: int = 0
    compactions: int = 0

    def count(self, kind: str) -> None:
        self.kills[kind] = self.kills.get(kind, 0) + 1


class Victim:
    """One data directory, one port, and the server that is killed and started again."""

    def __init__(self, directory: Path, rng: random.Random) -> None:
        self._directory = directory
        self._rng = rng
        self._port = free_port()
        self.server: ServerProcess | None = None

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self._port}"

    def start(self, failpoint: str | None = None) -> None:
        """Start; a failpoint may kill it on the way, then once more without."""
        flags = [
            f"--backend-batch-limit={self._rng.choice([0, 5, 100])}",
            f"--compaction-batch-limit={self._rng.choice([0, 5])}",
        ]
        env = {} if failpoint is None else {"COORD_SERVER_FAILPOINTS": failpoint}
        listen = f"http://{self.endpoint}"
        try:
            self.server = start_coord_server(self._directory, *flags, listen=listen, env=env)
        except ServerDied:
            if failpoint is None:
                raise
            self.server = start_coord_server(self._directory, *flags, listen=listen)

    def start_and_kill_early(self, after: float) -> None:
        """Start, and kill before it can have said that it is ready, most of the time."""
        command = coord_server_command(
            f"--data-dir={self._directory / 'data'}", f"--listen-client-urls=http://{self.endpoint}"
        )
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(after)  # a random moment is what is asked for
        process.kill()
        process.wait()

    def kill(self) -> None:
        assert self.server is not None
        self.server.kill()
        self.check_log()

    def check_log(self) -> None:
        assert self.server is not None
        text = self.server.log_text()
        assert "Traceback" not in text, text
        assert '"level":"error"' not in text, text

    def stop(self) -> None:
        """End it politely."""
        assert self.server is not None
        assert self.server.stop(signal.SIGTERM) == 0
        self.check_log()


class Run:
    """All cycles over one data directory."""

    def __init__(self, victim: Victim, rng: random.Random) -> None:
        self.victim = victim
        self.rng = rng
        self.ledger = Ledger()
        self.figures = Figures()
        self.compacted = 0
        self._next_point: str | None = None

    async def all_cycles(self, cycles: int) -> None:
        await asyncio.to_thread(self.victim.start)
        # One client and one watch for the whole run: they go on over every restart.
        async with (
            coord.connect(self.victim.endpoint, runtime="inline", request_timeout=30) as observer,
            observer.watch(b"", prefix=True, start_revision=2) as watch,
        ):
            for _ in range(cycles):
                await self._cycle(observer, watch)
            await self._check_after_clean_stop(observer)

    async def _cycle(self, observer: coord.Client, watch: coord.Watch) -> None:
        start = self.ledger.revision
        async with coord.connect(
            self.victim.endpoint, runtime="inline", request_timeout=5
        ) as client:
            stop = asyncio.Event()
            answers = Answers()
            async with asyncio.TaskGroup() as group:
                for number in range(WRITERS):
                    writer = Writer(client, self.ledger, number, self.rng)
                    group.create_task(writer.run(stop, answers))
                await self._until_dead(client, answers, start)
                stop.set()
                point = self._choose_next_point()
                await asyncio.to_thread(self.victim.start, point)
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            checked = asyncio.Event()
            group.create_task(self._keep_up(checked))
            events = await self._catch_up(observer, watch)
            await self._check(observer, start, events)
            checked.set()

    async def _keep_up(self, checked: asyncio.Event) -> None:
        """Start the server again if a failpoint kills it before the next writers come."""
        server = self.victim.server
        assert server is not None
        while not checked.is_set():
            if self._next_point is not None and server.process.poll() is not None:
                self.figures.count(self._next_point.partition("=")[0])
                self._next_point = None
                self.victim.check_log()
                await asyncio.to_thread(self.victim.start)
            await asyncio.sleep(0.02)

    async def _until_dead(self, client: coord.Client, answers: Answers, start: int) -> None:
        """Let the writers work, and see to it that the server dies."""
        victim, rng = self.victim, self.rng
        assert victim.server is not None
        if self._next_point is not None:
            self.figures.count(self._next_point.partition("=")[0])
            with contextlib.suppress(subprocess.TimeoutExpired):  # not reached: killed from outside
                await asyncio.to_thread(victim.server.process.wait, 0.5)
            victim.kill()
            return
        kind = rng.choice(["answers", "time", "compact", "early"])
        self.figures.count(kind)
        if kind == "compact":
            await answers.reach(rng.randrange(20, 150))
            async with asyncio.TaskGroup() as group:
                group.create_task(self._compact(client, start))
                await asyncio.sleep(rng.uniform(0, 0.03))
                victim.kill()
        elif kind == "time":
            await asyncio.sleep(rng.uniform(0, 0.3))
            victim.kill()
        else:
            await answers.reach(rng.randrange(0, 300))
            victim.kill()
        if kind == "early":
            await asyncio.to_thread(victim.start_and_kill_early, rng.uniform(0.05, 0.6))

    async def _compact(self, client: coord.Client, start: int) -> None:
        """Compact what the observer has seen. Unknown if unanswered: both is right then."""
        target = self.rng.randrange(max(self.compacted, 1), start + 1)
        try:
            await client.compact(target, physical=self.rng.random() < 0.5, timeout=2)
        except (coord.Compacted, coord.AmbiguousResult, coord.Unavailable, coord.CoordTimeout):
            return
        self.figures.compactions += 1
        self.compacted = max(self.compacted, target)

    def _choose_next_point(self) -> str | None:
        self._next_point = None
        if self.rng.random() < 0.3:
            name = self.rng.choice(_POINTS)
            visits = 80 if name.startswith("wal") else 8
            self._next_point = f"{name}=crash@{self.rng.randrange(1, visits)}"
        return self._next_point

    async def _catch_up(self, observer: coord.Client, watch: coord.Watch) -> list[coord.WatchEvent]:
        """Take everything that has happened; the watch from before the crash tells each event once."""
        revision = (await observer.get_prefix(b"", limit=1)).revision
        events: list[coord.WatchEvent] = []
        while not events or events[-1].revision < revision:
            if not events and revision == self.ledger.revision:
                break
            events.append(await anext(watch))
            # The rest of its revision comes in the same batch.
            while watch._events:
                events.append(await anext(watch))
        self.ledger.replay(events)
        self.ledger.settle()
        assert self.ledger.revision == revision
        self.figures.events += len(events)
        return events

    async def _check(
        self, client: coord.Client, start: int, events: list[coord.WatchEvent]
    ) -> None:
        ledger = self.ledger
        present = {kv.key: kv for kv in (await client.get_prefix(b"")).items}
        assert present == ledger.state
        await self._check_leases(client)
        if events:
            async with client.watch(b"", prefix=True, start_revision=start + 1) as fresh:
                assert [await anext(fresh) for _ in events] == events
        if self.compacted > 1:
            with pytest.raises(coord.Compacted):
                await client.get(b"x", revision=self.compacted - 1)

    async def _check_leases(self, client: coord.Client) -> None:
        ledger = self.ledger
        alive = set(await client.leases())
        certain = {lease for lease, sure in ledger.leases.items() if sure}
        assert certain <= alive
        assert alive <= set(ledger.leases)
        ledger.leases = dict.fromkeys(sorted(alive), True)
        for lease in self.rng.sample(sorted(alive), min(5, len(alive))):
            info = await client.lease_time_to_live(lease, keys=True)
            assert info.granted == LEASE_TTL
            assert info.remaining is not None
            # A new leader gives every lease its whole TTL again, adds the election timeout, and spreads many.
            assert LEASE_TTL - 60 < info.remaining < LEASE_TTL + 60
            assert set(info.keys) == ledger.attached(lease)

    async def _check_after_clean_stop(self, observer: coord.Client) -> None:
        await asyncio.to_thread(self.victim.stop)
        await asyncio.to_thread(self.victim.start)
        await self._check(observer, self.ledger.revision, [])
        put = await observer.put(b"last", b"write")
        assert put.revision == self.ledger.revision + 1


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.timeout(60 + CYCLES * 10)
async def test_killed_at_random_moments(tmp_path: Path) -> None:
    print(f"COORD_KILL_SEED={SEED} COORD_KILL_CYCLES={CYCLES}")
    rng = random.Random(SEED)
    victim = Victim(tmp_path, rng)
    run = Run(victim, rng)
    begun = time.monotonic()
    try:
        await run.all_cycles(CYCLES)
    finally:
        if victim.server is not None:
            end(victim.server)
    ledger = run.ledger
    print(
        f"{CYCLES} cycles in {time.monotonic() - begun:.0f} s: {ledger.acknowledged} writes"
        f" acknowledged, {ledger.unknown_applied} unknown ones applied, {ledger.unknown_dropped}"
        f" not, {run.figures.events} events, {run.figures.compactions} compactions,"
        f" kills {run.figures.kills}"
    )
    assert ledger.acknowledged > CYCLES
