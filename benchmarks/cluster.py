"""Three members next to three of etcd: ``python -m benchmarks.cluster [--only start,calls,failover,catch-up,recovery]``.

* start: processes started to the first write acknowledged, resident memory of the idle members;
* calls: h2load and etcd's own Go client through the leader and through a follower, and the latter through all members;
* failover: kill -9 of the leader to the first write acknowledged by another member;
* catch-up: a follower that was dead during many writes comes back while the leader goes on serving;
* recovery: one member with a large data directory is started again.

The two servers take turns in every round, so that a busy machine is busy for both.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.rows import Row, command, h2load_rate, missing
from benchmarks.side_by_side import Figures, print_side_by_side
from benchmarks.trio import ASK_AGAIN_S, READY_WITHIN_S, Node, Trio, commands, dial
from coord.rpc import RpcError
from coord.runtime import new_loop
from coord.testing.chaos.calls import status_of
from coord.wire import methods, rpc_pb2

if TYPE_CHECKING:
    from collections.abc import Iterator

    from coord.rpc import Channel

PUT = methods.KV_PUT.path
PARTS = ("start", "calls", "failover", "catch-up", "recovery")
CALLS = (
    *(("h2load", "put", n, total) for n, total in ((1, 2_000), (64, 20_000), (256, 20_000))),
    *(("h2load", "get", n, 20_000) for n in (64, 256)),
    *(("go", "put", n, total) for n, total in ((1, 2_000), (64, 10_000), (256, 10_000))),
    *(("go", "get", n, 10_000) for n in (64, 256)),
    ("go", "lock-one", 16, 400),
)
# What a client does that knows all members, as programs are told to.
SPREAD_CALLS = tuple(call for call in CALLS if call[0] == "go" and call[2] > 1)
# How long one attempt to write may take while there is no leader.
ATTEMPT_S = 1.0


def a_put(number: int, size: int = 64) -> bytes:
    """Return one request."""
    return rpc_pb2.PutRequest(
        key=b"/bench/%08d" % (number % 10_000), value=b"x" * size
    ).SerializeToString()


async def first_write(nodes: list[Node]) -> float:
    """Try to write through all of these members until one acknowledges; return the moment."""
    moments: list[float] = []

    async def knock(node: Node) -> None:
        channel: Channel | None = None
        while not moments:
            try:
                if channel is None:
                    channel = await dial(node, timeout=ATTEMPT_S)
                await channel.unary(PUT, a_put(0), timeout=ATTEMPT_S)
                moments.append(time.perf_counter())
            except (RpcError, OSError):
                await asyncio.sleep(ASK_AGAIN_S)
                if channel is not None and not channel.ready:
                    channel = None
        if channel is not None:
            await channel.close()

    async with asyncio.timeout(READY_WITHIN_S), asyncio.TaskGroup() as group:
        for node in nodes:
            group.create_task(knock(node))
    return min(moments)


async def start(trio: Trio) -> Figures:
    """Start everything."""
    began = time.perf_counter()
    trio.start()
    ready = await first_write(trio.nodes)
    await trio.caught_up()
    await asyncio.sleep(1)
    return {
        "start to first write ms": (ready - began) * 1e3,
        "rss of an idle member MiB": statistics.mean(n.rss_mib for n in trio.nodes),
    }


def rate(
    endpoint: str, client: str, operation: str, in_flight: int, total: int, scratch: Path
) -> float:
    """Return operations per second."""
    row = Row(
        name=operation,
        client=client,
        operation=operation,
        in_flight=in_flight,
        total=total,
        writes_per_op=0,
    )
    lack = missing(row, None)
    if lack is not None:
        print(f"{operation} {client} {in_flight}: {lack}")
        return 0.0
    done = subprocess.run(
        command(row, endpoint, total, scratch, None),
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
    )
    if client == "h2load":
        return h2load_rate(operation, done.stdout, total)
    told = json.loads(done.stdout)
    return float(told["ops"] / told["seconds"])


async def calls(trio: Trio, scratch: Path) -> Figures:
    """Measure requests at the leader and at a follower."""
    leader = await trio.leader()
    follower = trio.others(leader)[0]
    await asyncio.to_thread(rate, leader.endpoint, "h2load", "put", 64, 2_000, scratch)
    figures: Figures = {}
    for where, endpoint, chosen in (
        ("leader", leader.endpoint, CALLS),
        ("follower", follower.endpoint, CALLS),
        ("all members", ",".join(node.endpoint for node in trio.nodes), SPREAD_CALLS),
    ):
        for call in chosen:
            client, operation, in_flight, _ = call
            name = f"{operation} {client} {in_flight} {where} /s"
            figures[name] = await asyncio.to_thread(rate, endpoint, *call, scratch)
    return figures


async def failover(trio: Trio) -> float:
    """Kill the leader; return the milliseconds to the next write, with the dead member back again."""
    await trio.caught_up()
    leader = await trio.leader()
    survivors = trio.others(leader)
    began = time.perf_counter()
    trio.kill(leader)
    moment = await first_write(survivors)
    trio.start(leader)
    await first_write([leader])
    return (moment - began) * 1e3


async def many(channel: Channel, numbers: Iterator[int], size: int, in_flight: int = 64) -> None:
    """Put as fast as it goes."""

    async def worker() -> None:
        for number in numbers:
            await channel.unary(PUT, a_put(number, size), timeout=60)

    async with asyncio.TaskGroup() as group:
        for _ in range(in_flight):
            group.create_task(worker())


async def steady(channel: Channel, until: asyncio.Event) -> list[float]:
    """Put every few milliseconds until told otherwise; return the milliseconds that each took, ascending."""
    took: list[float] = []
    while not until.is_set():
        began = time.perf_counter()
        await channel.unary(PUT, a_put(len(took)), timeout=60)
        took.append((time.perf_counter() - began) * 1e3)
        await asyncio.sleep(0.005)
    return sorted(took)


async def has_applied(node: Node, index: int) -> None:
    """Return once a member has applied this much."""
    while True:
        with contextlib.suppress(RpcError, OSError):
            if (await status_of(node.endpoint)).raftAppliedIndex >= index:
                return
        await asyncio.sleep(0.01)


async def catch_up(trio: Trio, writes: int) -> Figures:
    """Let a follower miss ``writes`` writes, and watch the leader's latency while it catches up."""
    leader = await trio.leader()
    away = trio.others(leader)[0]
    channel = await dial(leader)
    quiet = asyncio.Event()
    asyncio.get_running_loop().call_later(2, quiet.set)
    before = await steady(channel, quiet)
    trio.kill(away)
    began = time.perf_counter()
    await many(channel, iter(range(writes)), 64)
    rate = writes / (time.perf_counter() - began)
    target = (await status_of(leader.endpoint)).raftAppliedIndex
    done = asyncio.Event()
    began = time.perf_counter()
    trio.start(away)
    async with asyncio.timeout(600), asyncio.TaskGroup() as group:
        latency = group.create_task(steady(channel, done))
        await has_applied(away, target)
        caught = time.perf_counter() - began
        done.set()
    during = latency.result()
    await channel.close()
    return {
        "writes missed /s": rate,
        "caught up s, from its start": caught,
        "put p50 ms, quiet": before[len(before) // 2],
        "put p50 ms, meanwhile": during[len(during) // 2],
        "put p99 ms, quiet": before[len(before) * 99 // 100],
        "put p99 ms, meanwhile": during[len(during) * 99 // 100],
        "put worst ms, meanwhile": during[-1],
    }


async def recovery(one: Trio, mebibytes: int) -> Figures:
    """Fill one member, kill it, and start it again."""
    (node,) = one.nodes
    one.start()
    await first_write([node])
    channel = await dial(node)
    size = 16 << 10
    began = time.perf_counter()
    # Every key is overwritten: what is kept is history, as in a store that is due for compaction.
    await many(channel, iter(range((mebibytes << 20) // size)), size, in_flight=16)
    filled = time.perf_counter() - began
    await channel.close()
    await asyncio.sleep(1)
    held = (await status_of(node.endpoint)).dbSize
    one.kill(node)
    began = time.perf_counter()
    one.start()
    ready = await first_write([node])
    return {
        "filled s": filled,
        "database MiB": held / (1 << 20),
        "recovered s": ready - began,
        "rss after recovery MiB": node.rss_mib,
    }


def median_of(rounds: list[Figures]) -> Figures:
    """Return the median of each figure."""
    return {name: statistics.median(r[name] for r in rounds) for name in rounds[0]}


def started(
    runner: asyncio.Runner,
    stack: contextlib.ExitStack,
    rounds: int,
    scratch: Path,
    table: dict[str, Figures],
) -> dict[str, Trio]:
    """Start both clusters anew in every round; return those of the last one."""
    trios: dict[str, Trio] = {}
    starts: dict[str, list[Figures]] = {name: [] for name in commands()}
    for number in range(rounds):
        for name, base in commands().items():
            if name in trios:
                trios[name].close()
            trios[name] = stack.enter_context(Trio(base, scratch / f"{name}{number}"))
            starts[name].append(runner.run(start(trios[name])))
    for name, each in starts.items():
        table[name] |= median_of(each)
    return trios


def of_trios(options: argparse.Namespace, chosen: list[str], scratch: Path) -> dict[str, Figures]:
    """Answer the questions that need three members."""
    table: dict[str, Figures] = {name: {} for name in commands()}
    with asyncio.Runner(loop_factory=new_loop) as runner, contextlib.ExitStack() as stack:
        trios = started(runner, stack, options.rounds if "start" in chosen else 1, scratch, table)
        if "calls" in chosen:
            found: dict[str, list[Figures]] = {name: [] for name in trios}
            for _ in range(options.rounds):
                for name, trio in trios.items():
                    found[name].append(runner.run(calls(trio, scratch)))
            for name, rounds in found.items():
                table[name] |= median_of(rounds)
        if "failover" in chosen:
            gaps: dict[str, list[float]] = {name: [] for name in trios}
            for _ in range(options.kills):
                for name, trio in trios.items():
                    gaps[name].append(runner.run(failover(trio)))
            for name, each in gaps.items():
                table[name]["failover median ms"] = statistics.median(each)
                table[name]["failover worst ms"] = max(each)
        if "catch-up" in chosen:
            for name, trio in trios.items():
                table[name] |= runner.run(catch_up(trio, options.writes))
    return table


def main() -> int:
    """Measure, and print the figures side by side."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cluster")
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--writes", type=int, default=100_000)
    parser.add_argument("--mebibytes", type=int, default=1024)
    options = parser.parse_args()
    chosen = [part for part in options.only.split(",") if part]
    unknown = sorted(set(chosen) - set(PARTS))
    if unknown:
        parser.error(f"--only knows {', '.join(PARTS)}, not {', '.join(unknown)}")
    with tempfile.TemporaryDirectory(prefix="coord-cluster-bench-") as directory:
        scratch = Path(directory)
        table: dict[str, Figures] = {name: {} for name in commands()}
        if set(chosen) - {"recovery"}:
            table = of_trios(options, chosen, scratch)
        if "recovery" in chosen:
            for name, base in commands().items():
                with Trio(base, scratch / f"{name}-one", size=1) as one:
                    table[name] |= asyncio.run(recovery(one, options.mebibytes))
    print_side_by_side(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
