"""Large stores and many watchers, coord-server next to etcd: ``python -m benchmarks.scale [--keys N]``.

Three questions, each asked of both servers in one run:

* a million small keys: time to load, memory, time from start to the first answer, ranges, compaction;
* 5,000 watchers on 100 prefixes and one writer: events delivered per second;
* 20 watchers that read one response a second: does memory stay bounded, and is a watcher that reads unaffected?
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.side_by_side import Figures, print_side_by_side
from coord.rpc import CLIENT_LIMITS, Channel
from coord.runtime import Supervisor, TcpAddress, new_loop, real_env
from coord.wire import methods, rpc_pb2
from tests.support.servers import coord_server_process, real_etcd

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from coord.rpc import ClientStream
    from tests.support.servers import ServerProcess

PER_TXN = 128  # operations that a server admits in one txn
PATHS = {"put": methods.KV_PUT.path, "range": methods.KV_RANGE.path, "txn": methods.KV_TXN.path}
KEYS = {"key": b"/k/", "range_end": b"/k0"}


async def dial(server: ServerProcess, *, window: int = 16 << 20) -> Channel:
    """Connect to a server; ``window`` bytes may be under way to a reader that does not read."""
    host, _, port = server.endpoint.partition(":")
    limits = replace(CLIENT_LIMITS, max_receive_bytes=1 << 30, stream_window_bytes=window)
    channel = Channel(
        TcpAddress(host, int(port)), env=real_env(), authority=server.endpoint, limits=limits
    )
    await channel.connect(timeout=60)
    return channel


def memory_mib(server: ServerProcess) -> float:
    """Return the server's resident memory."""
    for line in Path(f"/proc/{server.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


async def ranged(channel: Channel, **options: object) -> rpc_pb2.RangeResponse:
    """Run one range read."""
    request = rpc_pb2.RangeRequest(**{**KEYS, **options})  # type: ignore[arg-type] # field names of the message
    answer = await channel.unary(PATHS["range"], request.SerializeToString(), timeout=300)
    return rpc_pb2.RangeResponse.FromString(answer)


async def load(channel: Channel, keys: int, value: bytes, in_flight: int = 16) -> None:
    """Put ``keys`` keys in transactions of 128."""
    starts = iter(range(0, keys, PER_TXN))

    async def worker() -> None:
        for start in starts:
            puts = [
                rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=b"/k/%09d" % n, value=value))
                for n in range(start, min(keys, start + PER_TXN))
            ]
            request = rpc_pb2.TxnRequest(success=puts)
            await channel.unary(PATHS["txn"], request.SerializeToString(), timeout=300)

    async with asyncio.TaskGroup() as group:
        for _ in range(in_flight):
            group.create_task(worker())


async def timed(figures: Figures, name: str, step: object) -> None:
    """Await a step and note its seconds."""
    start = time.perf_counter()
    await step  # type: ignore[misc] # any awaitable
    figures[name] = time.perf_counter() - start


async def million(server: ServerProcess, keys: int) -> Figures:
    """Load, read and compact."""
    figures: Figures = {"rss empty MiB": memory_mib(server)}
    channel = await dial(server)
    await timed(figures, "load s", load(channel, keys, b"v" * 32))
    figures["rss loaded MiB"] = memory_mib(server)
    await timed(figures, "count all s", ranged(channel, count_only=True))
    await timed(figures, "range 1,000 s", ranged(channel, limit=1000))
    await timed(figures, "range 100,000 s", ranged(channel, limit=100_000))
    await timed(figures, "overwrite a tenth s", load(channel, keys // 10, b"w" * 32))
    head = (await ranged(channel, limit=1, count_only=True)).header.revision
    compact = rpc_pb2.CompactionRequest(revision=head, physical=True).SerializeToString()
    await timed(figures, "compact s", channel.unary(methods.KV_COMPACT.path, compact, timeout=600))
    if (counted := (await ranged(channel, count_only=True)).count) != keys:
        raise SystemExit(f"{counted} keys instead of {keys} after the compaction")
    figures["rss at the end MiB"] = memory_mib(server)
    await channel.close()
    return figures


async def first_answer(server: ServerProcess, keys: int) -> None:
    """Check that a restarted server has everything."""
    channel = await dial(server)
    if (counted := (await ranged(channel, count_only=True)).count) != keys:
        raise SystemExit(f"{counted} keys instead of {keys} after the restart")
    await channel.close()


def watch_request(prefix: bytes) -> bytes:
    """Build the creation of a watch on a prefix."""
    end = prefix[:-1] + bytes((prefix[-1] + 1,))
    create = rpc_pb2.WatchCreateRequest(key=prefix, range_end=end)
    return rpc_pb2.WatchRequest(create_request=create).SerializeToString()


async def open_watches(channel: Channel, prefixes: list[bytes]) -> ClientStream:
    """Open one stream with a watch per prefix, all confirmed."""
    stream = channel.open_stream(methods.WATCH_WATCH.path)
    for prefix in prefixes:
        stream.send(watch_request(prefix))
    for _ in prefixes:
        message = await stream.receive()
        if message is None or not rpc_pb2.WatchResponse.FromString(message).created:
            raise SystemExit("a watch was not created")
    return stream


async def watchers(
    server: ServerProcess, count: int = 5_000, prefixes: int = 100, writes: int = 2_000
) -> Figures:
    """Let one writer write while ``count`` watchers listen; every event must arrive at each."""
    channel, writer = await dial(server), await dial(server)
    names = [b"/w/%03d/" % n for n in range(prefixes)]
    per_stream = 100
    streams = [
        await open_watches(channel, [names[(i + j) % prefixes] for j in range(per_stream)])
        for i in range(0, count, per_stream)
    ]
    expected = writes // prefixes * per_stream
    delays: list[float] = []

    async def listen(stream: ClientStream) -> None:
        seen = 0
        while seen < expected:
            message = await stream.receive()
            if message is None:
                raise SystemExit("a watch stream ended")
            for event in rpc_pb2.WatchResponse.FromString(message).events:
                seen += 1
                delays.append(time.perf_counter() - float(event.kv.value))

    start = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for stream in streams:
            group.create_task(listen(stream))
        for number in range(writes):
            key = names[number % prefixes] + b"%d" % number
            put = rpc_pb2.PutRequest(key=key, value=b"%f" % time.perf_counter())
            await writer.unary(PATHS["put"], put.SerializeToString(), timeout=60)
    seconds = time.perf_counter() - start
    delays.sort()
    for stream in streams:
        stream.cancel()
    await channel.close()
    await writer.close()
    return {
        "watchers": count,
        "events/s": len(delays) / seconds,
        "p50 delay ms": delays[len(delays) // 2] * 1e3,
        "p99 delay ms": delays[len(delays) * 99 // 100] * 1e3,
    }


async def slow_consumers(server: ServerProcess, count: int = 20, seconds: float = 20.0) -> Figures:
    """Keep ``count`` watchers that read one response a second behind a writer of large values."""
    before = memory_mib(server)
    slow_channels = [await dial(server, window=64 << 10) for _ in range(count)]
    slow = [await open_watches(c, [b"/s/"]) for c in slow_channels]
    quick_channel, writer = await dial(server), await dial(server)
    quick = await open_watches(quick_channel, [b"/s/"])
    delays: list[float] = []
    peak = before
    written = 0
    end = time.perf_counter() + seconds

    async def dawdle(stream: ClientStream) -> None:
        while True:
            await stream.receive()
            await asyncio.sleep(1)

    async def listen() -> None:
        while True:
            message = await quick.receive()
            if message is None:
                return
            now = time.perf_counter()
            events = rpc_pb2.WatchResponse.FromString(message).events
            delays.extend(now - float(event.kv.value[:20]) for event in events)

    readers = Supervisor(lambda name, error: print(f"{name}: {error}", file=sys.stderr))
    for stream in slow:
        readers.spawn(dawdle(stream), name="slow reader")
    readers.spawn(listen(), name="quick reader")
    while time.perf_counter() < end:
        stamp = b"%20.6f" % time.perf_counter()
        put = rpc_pb2.PutRequest(key=b"/s/%d" % (written % 50), value=stamp + b"x" * 65_536)
        await writer.unary(PATHS["put"], put.SerializeToString(), timeout=60)
        written += 1
        peak = max(peak, memory_mib(server))
        await asyncio.sleep(0.002)
    await readers.close()
    delays.sort()
    for channel in (*slow_channels, quick_channel, writer):
        await channel.close()
    return {
        "written MiB": written / 16,
        "rss before MiB": before,
        "rss peak MiB": peak,
        "quick watcher lacks": written - len(delays),
        "quick watcher p50 ms": delays[len(delays) // 2] * 1e3,
        "quick watcher p99 ms": delays[len(delays) * 99 // 100] * 1e3,
    }


def ask(server: ServerProcess, keys: int, only: str) -> Figures:
    """Ask all questions but the restart."""
    figures: Figures = {}
    with asyncio.Runner(loop_factory=new_loop) as runner:
        if only in ("", "watchers"):
            figures |= runner.run(watchers(server))
        if only in ("", "slow"):
            figures |= runner.run(slow_consumers(server))
        if only in ("", "keys"):
            figures |= runner.run(million(server, keys))
    return figures


def main() -> int:
    """Run both and print the figures side by side."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale")
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--only", default="", choices=["", "keys", "watchers", "slow"])
    options = parser.parse_args()
    start_of: dict[str, Callable[[Path], AbstractContextManager[ServerProcess]]] = {
        "coord-server": coord_server_process,
        "etcd": lambda d: real_etcd(d, "--quota-backend-bytes=8589934592"),
    }
    table: dict[str, Figures] = {}
    with tempfile.TemporaryDirectory(prefix="coord-scale-") as directory:
        for name, start in start_of.items():
            home = Path(directory) / name
            with start(home) as server:
                table[name] = ask(server, options.keys, options.only)
            if options.only not in ("", "keys"):
                continue
            began = time.perf_counter()
            with start(home) as server:
                asyncio.run(first_answer(server, options.keys))
                table[name]["restart to answer s"] = time.perf_counter() - began
                table[name]["rss restarted MiB"] = memory_mib(server)
    print_side_by_side(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
