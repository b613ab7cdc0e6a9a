"""Writers that go on while a disk fails, what they were told, and what a server said when it ended."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator
from typing import Any, TypedDict

import coord
from coord.rpc.channel import Channel
from coord.rpc.status import RpcError
from coord.runtime import TcpAddress, real_env
from coord.testing.chaos import MemberProcess
from coord.testing.check.ledger import Ledger
from coord.wire import methods
from tests.chaos.writers import Answers, Writer

WRITERS = 4
WITHIN_S = 30.0


class End(TypedDict):
    """How a process ended: its exit code, the fields of its fatal lines, and whether it was untidy."""

    code: int
    fatal: list[dict[str, Any]]
    traceback: bool


@contextlib.asynccontextmanager
async def writing(endpoints: str, ledger: Ledger) -> AsyncGenerator[Answers]:
    """Let writers write until the context ends, over every outage; the ledger hears what they are told."""
    rng = random.Random()
    async with coord.connect(endpoints, runtime="inline", request_timeout=WITHIN_S) as client:
        stop, answers = asyncio.Event(), Answers()
        async with asyncio.TaskGroup() as group:
            for number in range(WRITERS):
                group.create_task(Writer(client, ledger, number, rng).run(stop, answers))
            try:
                yield answers
            finally:
                stop.set()


async def judge(endpoint: str, ledger: Ledger) -> None:
    """Replay what the store tells, from where the ledger is. Raises Broken, or AssertionError."""
    async with coord.connect(endpoint, runtime="inline", request_timeout=WITHIN_S) as client:
        revision = (await client.get_prefix(b"", limit=1)).revision
        events: list[coord.WatchEvent] = []
        async with (
            asyncio.timeout(WITHIN_S),
            client.watch(b"", prefix=True, start_revision=ledger.revision + 1) as watch,
        ):
            while revision > ledger.revision and (not events or events[-1].revision < revision):
                events.append(await anext(watch))
                # The rest of its revision comes in the same batch.
                while watch._events:
                    events.append(await anext(watch))
        ledger.replay(events)
        ledger.settle()
        assert ledger.revision == revision
        for key in sorted({event.key for event in events}):
            assert await client.get(key) == ledger.state.get(key), key


async def end_of(member: MemberProcess, *, within: float = WITHIN_S) -> End:
    """Wait until a member has ended by itself, and tell how. To be called once for each of its ends."""
    code = await member.ended(within=within)
    text = member.log_text()
    fatal = [line for line in member.log_lines() if line["level"] == "fatal"]
    # The next end is told by what comes from now on.
    member.log_path.unlink()
    return End(code=code, fatal=fatal, traceback="Traceback" in text)


async def refused_start(member: MemberProcess) -> End:
    """Start a member that cannot run, and tell how it ended."""
    await member.start(wait=False)
    return await end_of(member)


async def snapshot_refusal(member: MemberProcess) -> str | None:
    """Ask for a snapshot, and return why there is none; None if all of it came."""
    host, _, port = member.endpoint.rpartition(":")
    channel = Channel(TcpAddress(host, int(port)), env=real_env(), authority=member.endpoint)
    await channel.connect(timeout=5)
    try:
        async with asyncio.timeout(WITHIN_S):
            stream = channel.open_stream(methods.MAINTENANCE_SNAPSHOT.path)
            stream.send(b"")
            stream.half_close()
            while await stream.receive() is not None:
                pass
    except RpcError as error:
        return error.message
    finally:
        await channel.close()
    return None
