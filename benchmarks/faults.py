"""Python clients of etcd under the same faults, on real etcd 3.5.1: ``python -m benchmarks.faults [--only ...]``.

* half-open: the connection carries nothing any more and is not closed, as behind a firewall that forgot it; new
  connections pass;
* restart: the server is killed and started again three seconds later, with its data;
* leader: the leader of three members is killed; clients that take one endpoint were given a follower;
* compaction: while a watcher is cut off, 20 events happen and history is compacted;
* dead: the first of the given endpoints answers nobody;
* token: the server knows users by JWT tokens, which end after six seconds;
* certificates: those of the server and of the clients are replaced on disk, the old ones expire, and then connections
  are cut. Clients that take no certificate of their own are left out.

All clients meet a fault together, each in a process and behind a proxy of its own (``clients/fault_worker.py``).
Another client writes what they watch, past the proxies, so what they must see is known.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import coord
from benchmarks.clients.environments import (
    CLIENTS,
    ROOT,
    Client,
    environment,
    folder,
    missing,
    python,
)
from benchmarks.clients.fault_worker import DEADLINE_S, WATCHED
from benchmarks.cluster import first_write
from benchmarks.fault_setups import SETUPS, TOKEN_TTL_S, Setup, plain
from benchmarks.kept import keep
from benchmarks.trio import READY_WITHIN_S, Trio, commands
from coord.runtime import new_loop
from tests.support.proxy import Proxy
from tests.support.servers import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

SETTLE_S = 3.0
WRITE_EVERY_S = 0.2
TAKES_LISTS = frozenset({"coord", "etcd-client-py"})
TAKES_CERTIFICATES = frozenset({"coord", "etcd3"})


@dataclass
class Subject:
    """One client: what it told, and the proxy before it."""

    name: str
    client: Client | None
    proxy: Proxy
    process: asyncio.subprocess.Process | None = None
    told: list[dict[str, object]] = field(default_factory=list)

    async def start(self, endpoints: list[str], extra: dict[str, str]) -> None:
        """Start it; clients that know one endpoint are given the first that answers."""
        program = sys.executable if self.client is None else python(folder(self.client))
        self.process = await asyncio.create_subprocess_exec(
            *(program, "-W", "ignore", "-m", "benchmarks.clients.fault_worker"),
            *(self.name, ",".join(endpoints)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**environment(self.client), **extra},
            cwd=ROOT,
        )

    async def listen(self) -> None:
        """Take down what it tells until it ends."""
        if self.process is not None and self.process.stdout is not None:
            async for line in self.process.stdout:
                self.told.append(json.loads(line))

    def moments(self, kind: str) -> dict[int, float]:
        """Return when puts began or ended, by their numbers."""
        return {int(str(t["number"])): float(str(t["at"])) for t in self.told if t["kind"] == kind}


@dataclass
class Course:
    """What happened around the clients."""

    setup: Setup
    fault_at: float = 0.0
    written: dict[str, float] = field(default_factory=dict)
    writing: bool = True


def judge(subject: Subject, course: Course, alive: frozenset[int], end: float) -> dict[str, object]:
    """Say how a client bore it."""
    begun, done, failed = (subject.moments(k) for k in ("put", "put done", "put failed"))
    took = {n: (done.get(n) or failed.get(n) or end) - at for n, at in begun.items()}
    after = [done[n] for n in done if begun[n] > course.fault_at]
    errors = Counter(str(t["error"]) for t in subject.told if t["kind"] == "put failed")
    watching = [float(str(t["at"])) for t in subject.told if t["kind"] == "watching"]
    due = {k for k, at in course.written.items() if watching and at > watching[0] + 1.0}
    seen = Counter(str(t["key"]) for t in subject.told if t["kind"] == "event")
    ended = [str(t["error"]) for t in subject.told if t["kind"] == "watch ended"]
    leases = [int(str(t["id"])) for t in subject.told if t["kind"] == "lease"]
    lost = [str(t["error"]) for t in subject.told if t["kind"] == "lease lost"]
    return {
        "longest_put_s": round(max(took.values(), default=0.0), 2),
        "unanswered": sum(n not in done and n not in failed for n in begun),
        "recovered_s": round(min(after) - course.fault_at, 2) if after else None,
        "served_at_end": bool(done) and max(done.values()) > end - 2 * DEADLINE_S,
        "puts_failed": sum(errors.values()),
        "errors": [f"{count} x {text}" for text, count in errors.most_common(3)],
        "events_due": len(due),
        "events_missed": len(due - set(seen)),
        "events_doubled": sum(count - 1 for count in seen.values()),
        "watch_ended": ended[0] if ended else None,
        "lease_alive": bool(leases) and leases[-1] in alive,
        "lease_lost": lost[0] if lost else None,
    }


async def write(course: Course, client: coord.Client) -> None:
    """Write what is watched, for as long as there is a server that takes it."""
    number = 0
    while course.writing:
        number += 1
        key = f"{WATCHED}{number:05}"
        with contextlib.suppress(coord.CoordError):
            await client.put(key, "x", timeout=1)
            course.written[key] = time.monotonic()
        await asyncio.sleep(WRITE_EVERY_S)


async def half_open(_trio: Trio, subjects: list[Subject], course: Course, _: coord.Client) -> None:
    """Strand the connections."""
    course.fault_at = time.monotonic()
    for subject in subjects:
        subject.proxy.strand()
    await asyncio.sleep(30)


async def restart(trio: Trio, _s: list[Subject], course: Course, _: coord.Client) -> None:
    """Kill the server, and start it again."""
    course.fault_at = time.monotonic()
    trio.kill(trio.nodes[0])
    await asyncio.sleep(3)
    trio.start(trio.nodes[0])
    await asyncio.sleep(17)


async def leader(trio: Trio, _s: list[Subject], course: Course, _: coord.Client) -> None:
    """Kill the leader."""
    node = await trio.leader()
    course.fault_at = time.monotonic()
    trio.kill(node)
    await asyncio.sleep(15)


async def compaction(
    _trio: Trio, subjects: list[Subject], course: Course, client: coord.Client
) -> None:
    """Cut everybody off, write, compact, let them in again."""
    course.fault_at = time.monotonic()
    for subject in subjects:
        await subject.proxy.refuse()
        subject.proxy.cut()
    for number in range(20):
        key = f"{WATCHED}cut{number:02}"
        await client.put(key, "x")
        course.written[key] = time.monotonic()
    await client.compact((await client.status()).revision)
    for subject in subjects:
        await subject.proxy.accept()
    await asyncio.sleep(12)


async def dead(_trio: Trio, _s: list[Subject], _c: Course, _: coord.Client) -> None:
    """Nothing more: the first endpoint was dead from the start."""
    await asyncio.sleep(7)


async def token(_t: Trio, _s: list[Subject], course: Course, _: coord.Client) -> None:
    """Nothing more: wait for the ends of some tokens."""
    await asyncio.sleep(TOKEN_TTL_S - SETTLE_S)
    course.fault_at = time.monotonic()
    await asyncio.sleep(3 * TOKEN_TTL_S)


async def rotation(_t: Trio, subjects: list[Subject], course: Course, _: coord.Client) -> None:
    """Replace the files in time, let the old certificates end, and cut."""
    made, expires = course.setup.certificates, course.setup.expires
    if made is None or expires is None:
        raise SystemExit("no certificates")
    made.issue_server()
    made.issue_client()
    await asyncio.sleep((expires - datetime.now(UTC)).total_seconds() + 1)
    course.fault_at = time.monotonic()
    for subject in subjects:
        subject.proxy.cut()
    await asyncio.sleep(15)


SCENARIOS: dict[
    str, tuple[int, Callable[[Trio, list[Subject], Course, coord.Client], Awaitable[None]]]
] = {
    "half-open": (1, half_open),
    "restart": (1, restart),
    "leader": (3, leader),
    "compaction": (1, compaction),
    "dead": (1, dead),
    "token": (1, token),
    "certificates": (1, rotation),
}


@contextlib.asynccontextmanager
async def subjects_of(trio: Trio, scenario: str, setup: Setup) -> AsyncIterator[list[Subject]]:
    """Start all clients, each behind a proxy; of three members the leader is the last endpoint."""
    nodes = trio.nodes
    if len(nodes) > 1:
        first = await trio.leader()
        nodes = [*trio.others(first), first]
    clients: list[tuple[str, Client | None]] = [("coord", None)]
    clients += [(c.name.partition("==")[0], c) for c in CLIENTS if missing(c.name) is None]
    if setup.certificates is not None:
        clients = [(name, client) for name, client in clients if name in TAKES_CERTIFICATES]
    async with contextlib.AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        found: list[Subject] = []
        for name, client in clients:
            proxy = await stack.enter_async_context(Proxy(nodes[0].endpoint))
            endpoints = [proxy.endpoint, *[n.endpoint for n in nodes[1:]]]
            if scenario == "dead":
                endpoints.insert(0, f"127.0.0.1:{free_port()}")
            subject = Subject(name, client, proxy)
            await subject.start(endpoints, setup.environment)
            group.create_task(subject.listen())
            found.append(subject)
        yield found
        for subject in found:
            if subject.process is not None and subject.process.returncode is None:
                subject.process.kill()
                await subject.process.wait()


async def run(scenario: str, scratch: Path) -> dict[str, object]:
    """Let all clients meet one fault."""
    size, fault = SCENARIOS[scenario]
    setup = SETUPS.get(scenario, plain)(scratch / f"{scenario}-setup")
    command = [*commands()["etcd"], *setup.flags]
    with Trio(command, scratch / scenario, size=size, scheme=setup.scheme) as trio:
        trio.start()
        urls = [f"{setup.scheme}://{node.endpoint}" for node in trio.nodes]
        if setup.certificates is None:
            await first_write(trio.nodes)
        async with coord.connect(urls, tls=setup.options.get("tls")) as first:
            await first.put("ready", "x", timeout=READY_WITHIN_S)
            await setup.prepare(first)
        course = Course(setup, fault_at=time.monotonic())
        async with (
            coord.connect(urls, runtime="inline", **setup.options) as client,
            asyncio.TaskGroup() as group,
            subjects_of(trio, scenario, setup) as subjects,
        ):
            group.create_task(write(course, client))
            await asyncio.sleep(SETTLE_S)
            await fault(trio, subjects, course, client)
            course.writing = False
            await asyncio.sleep(1)
            end = time.monotonic()
            alive = frozenset(await client.leases())
            return {s.name: judge(s, course, alive, end) for s in subjects}


def main() -> int:
    """Run the faults, print what was seen, keep it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults")
    parser.add_argument("--only", default=",".join(SCENARIOS))
    options = parser.parse_args()
    found: dict[str, object] = {}
    with (
        tempfile.TemporaryDirectory(prefix="coord-faults-") as directory,
        asyncio.Runner(loop_factory=new_loop) as runner,
    ):
        for scenario in [s for s in options.only.split(",") if s]:
            figures = found[scenario] = runner.run(run(scenario, Path(directory)))
            print(f"\n{scenario}, puts with a deadline of {DEADLINE_S} s")
            for name, figure in figures.items():
                print(f"  {name:15} {json.dumps(figure)}", flush=True)
    keep("client-faults", {"deadline_s": DEADLINE_S, "faults": found})
    return 0


if __name__ == "__main__":
    sys.exit(main())
