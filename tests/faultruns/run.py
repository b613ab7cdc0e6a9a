"""One run: three members behind proxies, three workers, faults, and everything that was noted."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import sys
from asyncio.subprocess import PIPE, Process
from dataclasses import dataclass
from pathlib import Path

import coord
from coord.testing.chaos import ChaosProxy, Cluster, Links, Proxied
from tests.faultruns.faults import Ground, Planned, inflict
from tests.faultruns.lines import RUNNER, History, Notes
from tests.faultruns.recipes import WORKLOADS
from tests.faultruns.scene import AT_END_S, WORKERS

_READY_S = 60.0
_STOPPED_S = 150.0
"""Longer than the longest step, so that a step which hangs says so itself."""
_ENDED_S = 2 * AT_END_S + 90.0
_HARMLESS = frozenset({"info", "warn", "debug"})


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was noted, and what no note tells: complaints about processes."""

    history: History
    complaints: list[str]
    load: tuple[float, float]
    """The machine's load average before and after."""


class _Worker:
    """A worker's process."""

    def __init__(self, number: int, process: Process, errors: Path) -> None:
        self.number = number
        self.process = process
        self._errors = errors

    async def heard(self, word: str, *, within: float) -> bool:
        """Wait until it says so; False if it did not, or has ended."""
        if self.process.stdout is None:
            return False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                return (await self.process.stdout.readline()).decode().strip() == word
        return False

    def tell(self, word: str) -> None:
        if self.process.stdin is not None and self.process.returncode is None:
            self.process.stdin.write(word.encode() + b"\n")

    async def end(self, *, within: float) -> list[str]:
        """Wait for its end; kill it when that does not come. Return complaints."""
        found: list[str] = []
        try:
            async with asyncio.timeout(within):
                code = await self.process.wait()
            if code:
                found.append(f"worker {self.number} ended with {code}")
        except TimeoutError:
            self.process.kill()
            await self.process.wait()
            found.append(f"worker {self.number} did not end within {within:g} s")
        text = self._errors.read_text().strip()
        if text:
            found.append(f"worker {self.number} wrote: {text[-2000:]}")
        return found


async def run(
    directory: Path,
    planned: list[Planned],
    *,
    recipes: list[str],
    seed: int,
    seconds: float,
    after_s: float,
) -> Outcome:
    """Run everything: faults for so many ``seconds``, and ``after_s`` of undisturbed work. Leaves no process."""
    notes = Notes(directory / "runner.jsonl", RUNNER)
    rng = random.Random(seed)
    complaints: list[str] = []
    before = os.getloadavg()[0]
    async with (
        Cluster(directory / "cluster", proxied=Proxied.PEERS) as cluster,
        contextlib.AsyncExitStack() as stack,
    ):
        workers: list[_Worker] = []
        lines = [Links() for _ in range(WORKERS)]
        try:
            for number in range(WORKERS):
                endpoints = await _proxies(stack, cluster, lines[number])
                worker = await _start(directory, endpoints, number, recipes, seed)
                workers.append(worker)
            complaints += await _heard(workers, "ready", within=_READY_S)
            notes.note("run", "begin", recipes=recipes, seed=seed)
            await inflict(Ground(cluster, lines), planned, rng, notes, seconds=seconds)
            await asyncio.sleep(after_s)
            notes.note("run", "stop")
            complaints += await _finish(workers)
        finally:
            for worker in workers:
                if worker.process.returncode is None:
                    worker.process.kill()
                    await worker.process.wait()
        notes.note("run", "end")
        complaints += await _look(cluster, recipes, notes)
    notes.close()
    files = [directory / f"worker{number}.jsonl" for number in range(WORKERS)]
    history = History.read(directory / "runner.jsonl", *[f for f in files if f.exists()])
    return Outcome(history, complaints, (before, os.getloadavg()[0]))


async def _proxies(stack: contextlib.AsyncExitStack, cluster: Cluster, links: Links) -> list[str]:
    """Put proxies between one worker and all members; return where they listen."""
    found: list[str] = []
    for member in cluster.members.values():
        port = int(member.endpoint.rpartition(":")[2])
        proxy = await stack.enter_async_context(ChaosProxy(member.name, port, links))
        found.append(f"127.0.0.1:{proxy.port}")
    return found


async def _start(
    directory: Path, endpoints: list[str], number: int, recipes: list[str], seed: int
) -> _Worker:
    turned = endpoints[number:] + endpoints[:number]
    errors = directory / f"worker{number}.stderr"
    with errors.open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-W", "default", "-m", "tests.faultruns.worker"),
            f"--number={number}",
            f"--endpoints={','.join(turned)}",
            f"--recipes={','.join(recipes)}",
            f"--notes={directory / f'worker{number}.jsonl'}",
            f"--register={directory / 'register.sqlite'}",
            f"--seed={seed}",
            stdin=PIPE,
            stdout=PIPE,
            stderr=stderr,
        )
    return _Worker(number, process, errors)


async def _heard(workers: list[_Worker], word: str, *, within: float) -> list[str]:
    """Wait until all have said a word; return complaints."""
    return [
        f"worker {worker.number} did not get to {word!r}"
        for worker in workers
        if not await worker.heard(word, within=within)
    ]


async def _finish(workers: list[_Worker]) -> list[str]:
    for worker in workers:
        worker.tell("stop")
    found = await _heard(workers, "stopped", within=_STOPPED_S)
    for worker in workers:
        worker.tell("settle")
    for worker in workers:
        found += await worker.end(within=_ENDED_S)
    return found


async def _look(cluster: Cluster, recipes: list[str], notes: Notes) -> list[str]:
    """Read what is in the store, and what the members say."""
    found: list[str] = []
    async with coord.connect(cluster.endpoints) as client:
        for recipe in recipes:
            end = WORKLOADS[recipe].end
            if end is not None:
                await end(client, notes)
    hashes = await cluster.hashes()
    if len(set(hashes.values())) != 1:
        found.append(f"the members differ: {hashes}")
    for member in cluster.members.values():
        if "Traceback" in member.log_text():
            found.append(f"{member.name} logged a traceback")
        found += [
            f"{member.name} logged {line}"
            for line in member.log_lines()
            if line["level"] not in _HARMLESS
        ]
    return found
