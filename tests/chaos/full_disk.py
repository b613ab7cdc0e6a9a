"""The program behind ``test_full_disk.py``: servers on small disks, and what became of them, as JSON.

python -m tests.chaos.full_disk SCENARIO DIRECTORY
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import coord
from coord.runtime import start_task
from coord.testing.chaos import Cluster, MemberProcess, Proxied, call
from coord.testing.check.ledger import Ledger, Write
from coord.wire import methods, rpc_pb2
from coord_server.storage.lmdb_backend import LmdbBackend
from tests.chaos.outages import WITHIN_S, end_of, judge, refused_start, snapshot_refusal, writing
from tests.chaos.small_disk import SmallDisk

MIB = 1 << 20
PAGE_BYTES = 4096
# A piece of the log takes 64 MiB, and is reserved as a whole.
SEGMENT_MIB = 64

Facts = dict[str, Any]


def one_member(directory: Path) -> Cluster:
    return Cluster(directory, size=1, proxied=Proxied.NOTHING)


async def put_large(
    member: MemberProcess, ledger: Ledger, name: str, *, most: int, size: int = MIB
) -> int:
    """Put large values, ``most`` or until the member has ended; return how many were acknowledged."""
    ending = start_task(member.ended(within=WITHIN_S))
    try:
        async with coord.connect(member.endpoint, runtime="inline") as client:
            for number in range(most):
                key = f"{name}/{number}".encode()
                value = key.ljust(size, b".")
                putting = start_task(client.put(key, value, timeout=WITHIN_S))
                await asyncio.wait({putting, ending}, return_when=asyncio.FIRST_COMPLETED)
                write = Write(puts={key: (value, 0)})
                if putting.done() and putting.exception() is None:
                    ledger.acknowledge(write, putting.result().revision)
                    continue
                ledger.doubt(write)
                putting.cancel()
                await asyncio.wait({putting})
                return number
            return most
    finally:
        ending.cancel()
        await asyncio.wait({ending})


async def flushed(member: MemberProcess) -> None:
    """Return when the backend has everything."""
    request = rpc_pb2.HashRequest()
    await call(member.endpoint, methods.MAINTENANCE_HASH, request, timeout=WITHIN_S)


async def first_start(directory: Path) -> Facts:
    """The disk is full before the member has ever run."""
    facts: Facts = {"ends": []}
    async with one_member(directory).unstarted() as cluster:
        member = cluster["m1"]
        disk = SmallDisk(member.data_dir, mib=SEGMENT_MIB + 8)
        facts["directory"] = str(member.data_dir)
        for pages in (0, 1000):
            disk.fill(leave=pages * PAGE_BYTES)
            facts["ends"].append(await refused_start(member))
            disk.clear()
        await member.start()
        ledger = Ledger()
        async with writing(member.endpoint, ledger) as answers:
            await answers.more(50)
        await judge(member.endpoint, ledger)
        facts["acknowledged"] = ledger.acknowledged
    return facts


async def new_store(directory: Path) -> Facts:
    """The disk becomes full at each page of a new backend, which must be opened later."""
    disk = SmallDisk(directory / "disk", mib=1)
    facts = Facts(ends=[], opened=0)
    for pages in range(20):
        place = disk.path / f"{pages}"
        place.mkdir()
        disk.fill(leave=pages * PAGE_BYTES)
        facts["ends"].append(end_of_opening(place))
        disk.clear()
        LmdbBackend(str(place)).close()
        facts["opened"] += 1
        shutil.rmtree(place)
    return facts


def end_of_opening(place: Path) -> int:
    """Open a backend in a process of its own; 0 if it could, an errno, or minus the signal that ended it."""
    child = os.fork()
    if not child:
        code = 255
        try:
            LmdbBackend(str(place))
            code = 0
        except OSError as error:
            code = error.errno or code
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


async def backend(directory: Path) -> Facts:
    """No room for the backend: once because of what was written, once because of others."""
    ledger, facts = Ledger(), Facts()
    async with one_member(directory).unstarted() as cluster:
        member = cluster["m1"]
        disk = SmallDisk(member.data_dir, mib=SEGMENT_MIB + 8)
        facts["directory"] = str(member.data_dir)
        await member.start()
        facts["fitted"] = await put_large(member, ledger, "grown", most=60)
        facts["ends"] = [await end_of(member)]
        disk.grow(SEGMENT_MIB + 32)
        await member.start()
        await judge(member.endpoint, ledger)
        async with writing(member.endpoint, ledger) as answers:
            await answers.more(50)
            disk.fill()
            facts["ends"].append(await end_of(member))
            # It may serve for a moment: the log has its room, and what it takes is safe there.
            facts["ends"].append(await refused_start(member))
            disk.clear()
            await member.start()
            await answers.more(50)
        await judge(member.endpoint, ledger)
        facts["acknowledged"] = ledger.acknowledged
    return facts


def newest_piece(member: MemberProcess) -> str:
    """Return the name of the piece of the log that is written to; older ones go when they are not needed."""
    return max(path.name for path in (member.data_dir / "member" / "wal").glob("*.wal"))


async def log(directory: Path) -> Facts:
    """No room for the log: in the middle of a write at the end of a piece, and for the next piece."""
    ledger, facts = Ledger(), Facts()
    async with one_member(directory).unstarted() as cluster:
        member = cluster["m1"]
        # The backend takes as much as the log; the next piece would not fit beside it.
        disk = SmallDisk(member.data_dir, mib=2 * SEGMENT_MIB + 24)
        facts["directory"] = str(member.data_dir / "member" / "wal")
        await member.start()
        facts["fitted"] = await put_large(member, ledger, "log", most=SEGMENT_MIB - 1)
        await flushed(member)
        disk.fill()
        # Longer than what is left of the piece, which is then made longer.
        facts["torn"] = await put_large(member, ledger, "torn", most=1, size=MIB * 5 // 4)
        facts["ends"] = [await end_of(member), await refused_start(member)]
        disk.clear()
        await member.start()
        facts["cut"] = "cut an interrupted write" in member.log_text()
        await judge(member.endpoint, ledger)
        await flushed(member)
        disk.fill(leave=8 * MIB)
        facts["rolled"] = await put_large(member, ledger, "roll", most=3)
        facts["ends"].append(await end_of(member))
        facts["ended_in"] = newest_piece(member)
        disk.clear()
        disk.grow(3 * SEGMENT_MIB + 24)
        await member.start()
        facts["more"] = await put_large(member, ledger, "more", most=3)
        facts["went_on_in"] = newest_piece(member)
        await judge(member.endpoint, ledger)
        facts["acknowledged"] = ledger.acknowledged
    return facts


async def snapshot(directory: Path) -> Facts:
    """No room for a snapshot that a client asks for: the client is told, and the server goes on."""
    ledger, facts = Ledger(), Facts()
    async with one_member(directory).unstarted() as cluster:
        member = cluster["m1"]
        disk = SmallDisk(member.data_dir, mib=SEGMENT_MIB + 32)
        facts["directory"] = str(member.data_dir)
        await member.start()
        await put_large(member, ledger, "kept", most=8)
        await flushed(member)
        disk.fill(leave=4 * MIB)
        before = disk.free_bytes
        facts["told"] = await snapshot_refusal(member)
        facts["left"] = [path.name for path in (member.data_dir / "member").glob("*.tmp")]
        facts["taken"] = before - disk.free_bytes
        async with writing(member.endpoint, ledger) as answers:
            await answers.more(50)
        await judge(member.endpoint, ledger)
        disk.clear()
        facts["then"] = await snapshot_refusal(member)
        facts["code"] = await member.stop()
        facts["acknowledged"] = ledger.acknowledged
    return facts


async def cluster(directory: Path) -> Facts:
    """The disk of one of three is full, of the leader and then of a follower."""
    ledger, facts = Ledger(), Facts(ends=[], meanwhile=[], directories=[])
    async with Cluster(directory, proxied=Proxied.NOTHING).unstarted() as three:
        disks = {
            member.name: SmallDisk(member.data_dir, mib=SEGMENT_MIB + 16)
            for member in three.members.values()
        }
        await three.start()
        async with writing(three.endpoints, ledger) as answers:
            for is_leader in (True, False):
                await answers.more(50)
                leader = await three.leader()
                victim = leader if is_leader else three.others(leader)[0]
                facts["directories"].append(str(victim.data_dir))
                disks[victim.name].fill()
                facts["ends"].append(await end_of(victim))
                await three.leader()
                before = ledger.acknowledged
                await answers.more(100)
                facts["meanwhile"].append(ledger.acknowledged - before)
                disks[victim.name].clear()
                await victim.start()
        await judge(three.endpoints, ledger)
        facts["hashes"] = await three.hashes()
        facts["acknowledged"] = ledger.acknowledged
    return facts


SCENARIOS: dict[str, Callable[[Path], Awaitable[Facts]]] = {
    "first_start": first_start,
    "new_store": new_store,
    "backend": backend,
    "log": log,
    "snapshot": snapshot,
    "cluster": cluster,
}


async def main(name: str, directory: str) -> None:
    facts = await SCENARIOS[name](Path(directory))
    sys.stdout.write(json.dumps(facts) + "\n")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
