"""The acts of the demo, in the order in which they are told."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import coord
from coord.cli.demo.narrator import ClaimFailed, Narrator
from coord.cli.demo.processes import READY_WITHIN_S, ChildFailed, Server, Troupe
from coord.cli.demo.storage import FencedFile

if TYPE_CHECKING:
    from coord.cli.demo.processes import Actor

WORKERS = 4
ROUNDS = 25
TTL_S = 3  # short, so that the audience need not wait; long enough for renewals on a busy machine
_LOAD_S = 0.5  # how long the load of the last act runs before the crash
_DOWN_S = 0.3  # how long the server stays away in the last act
_PATIENCE_S = 30.0  # for anything that ends by itself after a TTL, on a machine that is very busy


class Story:
    """One performance: the narrator, the server, the actors and a client of the story's own."""

    def __init__(
        self, tell: Narrator, troupe: Troupe, server: Server, client: coord.Client, directory: Path
    ) -> None:
        self.tell = tell
        self.troupe = troupe
        self.server = server
        self.client = client
        self.path: Path = directory / "storage.jsonl"
        self.storage: FencedFile = FencedFile(self.path)

    async def actor(self, role: str, name: str, *, ttl: int = TTL_S, rounds: int = 0) -> Actor:
        """Start an actor on this story's server and file."""
        return await self.troupe.actor(
            role,
            name,
            endpoint=self.server.endpoint,
            storage=str(self.path),
            ttl=ttl,
            rounds=rounds,
        )

    async def contention(self) -> None:
        """Let many processes increment one file: none gets lost."""
        tell = self.tell
        tell.step(f"{WORKERS} processes, one file, one mutex")
        names = [f"worker-{number + 1}" for number in range(WORKERS)]
        workers = [await self.actor("worker", name, ttl=10, rounds=ROUNDS) for name in names]
        for worker in workers:
            await worker.event("ready")
        tell.say(f"pids {', '.join(str(worker.pid) for worker in workers)}")
        tell.say(f"each increments the number in the file {ROUNDS} times: read, think, write,")
        tell.say("under the mutex; the file takes a write only with a token as high as the last")
        began = time.monotonic()
        for worker in workers:
            worker.tell("go")
        refused = 0
        for worker in workers:
            refused += (await worker.event("done", within=_PATIENCE_S))["refused"]
        took = time.monotonic() - began
        for worker in workers:
            await worker.ended()
        entries = self.storage.entries()
        total = WORKERS * ROUNDS
        tell.say(f"{total} increments in {took:.2f} s, {took / total * 1000:.1f} ms each")
        tell.check(
            f"the number is {total}: no increment was lost",
            [entry.value for entry in entries] == list(range(1, total + 1)),
            found=str(self.storage.read()),
        )
        tell.check(
            "every grant had a higher token than the one before",
            all(a.token < b.token for a, b in pairwise(entries)),
        )
        tell.check("nobody's write was refused", refused == 0, found=f"{refused} refused")
        shares = {name: sum(entry.writer == name for entry in entries) for name in names}
        tell.check(
            f"every process had its {ROUNDS} turns",
            all(share == ROUNDS for share in shares.values()),
            found=str(shares),
        )

    async def failover(self) -> None:
        """Kill a leader: the next in line leads."""
        tell = self.tell
        tell.step("An elected leader is killed with -9")
        names = ("anna", "bela", "cleo")
        candidates: list[Actor] = []
        for place, name in enumerate(names, start=1):
            candidates.append(await self.actor("candidate", name))
            await candidates[-1].event("standing")
            await self._line_of(place)
        first, second, third = candidates
        token = (await first.event("leading"))["token"]
        tell.say(f"anna leads under token {token}; bela and cleo wait, in this order")
        killed_at = time.monotonic()
        await first.kill()
        led = await second.event("leading", within=_PATIENCE_S)
        took = time.monotonic() - killed_at
        tell.say(f"kill -9 {first.pid}: bela leads {took:.2f} s later under token {led['token']}")
        tell.note(f"a killed process says nothing: its lease of {TTL_S} s has to run out, counted")
        tell.note("from the last renewal, and the server looks for such leases every 0.5 s")
        leader = await self.client.election("demo/leader").leader()
        tell.check("the next in line leads", leader.value == b"bela", found=repr(leader.value))
        tell.check("under a higher token", led["token"] > token, found=str(led["token"]))
        line = await self._line_of(2)
        tell.check("nobody else leads: cleo waits", line == [b"bela", b"cleo"])
        resigned_at = time.monotonic()
        second.tell("resign")
        again = await third.event("leading", within=_PATIENCE_S)
        took = time.monotonic() - resigned_at
        tell.say(f"bela resigns instead of dying: cleo leads {took * 1000:.0f} ms later")
        tell.check("tokens go on rising", again["token"] > led["token"])
        third.tell("resign")
        tell.check("both then exit with 0", [await a.ended() for a in (second, third)] == [0, 0])

    async def _line_of(self, length: int) -> list[bytes]:
        """Wait until so many candidates stand, and return their values, the leader first."""
        election = self.client.election("demo/leader")
        async with asyncio.timeout(READY_WITHIN_S):
            while True:
                line = await election.candidates()
                if len(line) == length:
                    return [candidate.value for candidate in line]
                await asyncio.sleep(0.01)

    async def stale_holder(self) -> None:
        """Stop a holder beyond its lease: on waking up it is refused."""
        tell = self.tell
        tell.step("A lock holder is stopped for longer than its lease, and wakes up")
        sleeper = await self.actor("holder", "sleeper")
        held = await sleeper.event("holding")
        token, value = held["token"], self.storage.read()
        tell.say(
            f"sleeper holds the mutex under token {token}, valid for {held['valid_for']:.1f} s;"
        )
        tell.say(f"it has read {value} and is about to write {value + 1}")
        sleeper.send_signal(signal.SIGSTOP)
        stopped_at = time.monotonic()
        other = await self.actor("successor", "successor")
        await other.event("waiting")
        tell.say(f"SIGSTOP {sleeper.pid}; another process asks for the mutex, and waits")
        written = await other.event("written", within=_PATIENCE_S)
        took = time.monotonic() - stopped_at
        tell.say(f"{took:.2f} s later it has the mutex under token {written['token']}, and writes")
        tell.check("the lock went on to the next, with a higher token", written["token"] > token)
        before = self.storage.entries()
        sleeper.tell("write")
        sleeper.send_signal(signal.SIGCONT)
        refusal = await sleeper.event("refused")
        tell.say(f"SIGCONT {sleeper.pid}: it writes what it was about to, without looking")
        tell.check(
            f"the file refuses token {refusal['token']}: it has seen {refusal['highest']}",
            refusal["token"] == token and refusal["highest"] == written["token"],
        )
        tell.check("the file is as the successor left it", self.storage.entries() == before)
        lost = (await sleeper.event("checked"))["lost"]
        tell.check(f"grant.check() in the sleeper raises LockLost: {lost}", lost is not None)
        guarded = await sleeper.event("guarded")
        tell.check(
            "its transaction under grant.guard() fails too",
            guarded["succeeded"] is False and await self.client.get("demo/stale") is None,
        )
        for actor in (sleeper, other):
            actor.tell("leave")
        tell.check("both then exit with 0", [await a.ended() for a in (sleeper, other)] == [0, 0])

    async def discovery(self) -> None:
        """Show a service that appears and vanishes in a live watch."""
        tell = self.tell
        tell.step("A service appears, and vanishes with its process")
        key = b"demo/services/api-1"
        async with self.client.watch("demo/services/", prefix=True) as watch:
            tell.say("watching demo/services/")
            actor = await self.actor("service", "api-1")
            async with asyncio.timeout(_PATIENCE_S):
                event = await anext(watch)
            tell.say(f"PUT {event.key.decode()} = {event.value.decode()!r}, on a lease")
            tell.check(
                "the watch shows the service and its process",
                event.is_create and event.key == key and event.value == f"pid {actor.pid}".encode(),
            )
            await actor.event("registered")
            killed_at = time.monotonic()
            await actor.kill()
            async with asyncio.timeout(_PATIENCE_S):
                gone = await anext(watch)
            took = time.monotonic() - killed_at
            tell.say(f"kill -9 {actor.pid}: DELETE {gone.key.decode()} {took:.2f} s later")
            tell.check(
                "the watch shows that it is gone",
                gone.type is coord.EventType.DELETE and gone.key == key,
            )
        tell.check("nothing is left of it", await self.client.count("demo/services/") == 0)

    async def crash(self) -> None:
        """Kill the server under load: nothing acknowledged is lost."""
        tell = self.tell
        tell.step("The server itself is killed with -9, under load")
        grant = await self.client.mutex("demo/file").acquire(timeout=_PATIENCE_S)
        highest = grant.token
        await grant.release()
        counters = [await self.actor("counter", f"counter-{n}") for n in (1, 2, 3)]
        for actor in counters:
            await actor.event("progress", within=_PATIENCE_S)
        tell.say("three processes increment one key of the store as fast as they can")
        await asyncio.sleep(_LOAD_S)
        pid = self.server.pid
        await self.server.kill()
        await asyncio.sleep(_DOWN_S)
        took = await self.server.start()
        back_at = time.monotonic()
        tell.say(f"kill -9 {pid}; started again on the same data, serving after {took:.2f} s")
        news = [await _progress_after(actor, back_at) for actor in counters]
        tell.check("all three went on by themselves", min(news) > back_at)
        for actor in counters:
            actor.tell("finish")
        accounts = [await actor.event("account", within=_PATIENCE_S) for actor in counters]
        acknowledged = sum(account["acknowledged"] for account in accounts)
        doubtful = sum(account["doubtful"] for account in accounts)
        found = await self.client.get("demo/counter")
        value = int(found.value) if found is not None else 0
        tell.say(f"{acknowledged} increments acknowledged, {doubtful} with an unknown outcome")
        tell.check(
            f"the key says {value}: every acknowledged increment is there, none twice",
            acknowledged <= value <= acknowledged + doubtful,
        )
        revision = max(account["revision"] for account in accounts)
        tell.check(
            "revisions did not go back", found is not None and found.mod_revision >= revision
        )
        grant = await self.client.mutex("demo/file").acquire(timeout=_PATIENCE_S)
        tell.check("nor did tokens", grant.token > highest, found=str(grant.token))
        await grant.release()
        for actor in counters:
            actor.tell("stop")
        codes = [await actor.ended() for actor in counters]
        tell.check("all three exit with 0", codes == [0, 0, 0], found=str(codes))


async def perform(tell: Narrator, directory: Path, troupes: list[Troupe]) -> None:
    """Tell the whole story. Raises :class:`ClaimFailed` at the first claim that does not hold."""
    async with Troupe(directory, {}) as troupe:
        troupes.append(troupe)
        tell.step("A server")
        server = Server(troupe, directory)
        took = await server.start()
        tell.say(
            f"coord-server, pid {server.pid}, at {server.endpoint}, serving after {took:.2f} s"
        )
        async with coord.connect(server.endpoint, name="story") as client:
            status = await client.status()
            tell.check("it answers and leads its cluster of one", status.leader == status.member_id)
            story = Story(tell, troupe, server, client, directory)
            await story.contention()
            await story.failover()
            await story.stale_holder()
            await story.discovery()
            await story.crash()
        tell.step("The end")
        code = await server.stop()
        tell.check("SIGTERM: the server drains and exits with 0", code == 0, found=str(code))
        tell.check(
            f"none of the {troupe.started} processes is left",
            not troupe.alive,
            found=str(troupe.alive),
        )


async def _progress_after(actor: Actor, instant: float) -> float:
    """Wait until an actor has made progress after ``instant``, and return when."""
    while True:
        at = float((await actor.event("progress", within=_PATIENCE_S))["at"])
        if at > instant:
            return at


async def _until_stopped(
    tell: Narrator, directory: Path, troupes: list[Troupe], received: list[signal.Signals]
) -> None:
    """Perform; SIGTERM and SIGHUP end it like Ctrl-C does, and are noted in ``received``."""
    task = asyncio.current_task()

    def stop(number: signal.Signals) -> None:
        received.append(number)
        if task is not None:
            task.cancel()

    for number in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop, number)
    await perform(tell, directory, troupes)


def run() -> int:
    """Run the demo: 0 if every claim held, 1 if one did not, 128 + n when signal n ended it (Ctrl-C: 130)."""
    tell = Narrator()
    tell.title("coord: sessions, fenced locks and elections, shown on real processes")
    troupes: list[Troupe] = []
    received: list[signal.Signals] = []
    with tempfile.TemporaryDirectory(prefix="coord-demo-", ignore_cleanup_errors=True) as name:
        try:
            asyncio.run(_until_stopped(tell, Path(name), troupes, received))
        except (KeyboardInterrupt, asyncio.CancelledError):
            tell.fail("interrupted; all processes are ended")
            return 128 + (received[0] if received else signal.SIGINT)
        except (ClaimFailed, ChildFailed, coord.CoordError, OSError, TimeoutError) as error:
            tell.fail(str(error) or type(error).__name__)
            return 1
        finally:
            for troupe in troupes:
                with contextlib.suppress(OSError):
                    troupe.kill_now()
    try:
        tell.check("the temporary directory is removed", not Path(name).exists(), found=name)
    except ClaimFailed as error:
        tell.fail(str(error))
        return 1
    tell.title(f"\nAll {tell.checked} claims held, in {tell.elapsed():.1f} s.")
    return 0
