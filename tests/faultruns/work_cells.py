"""Counters, cells, optimistic transactions and rate limits: every number must come out exactly."""

from __future__ import annotations

import coord
from tests.faultruns.lines import Notes, now
from tests.faultruns.scene import Scene

_CALL_S = 10.0
ACCOUNTS = 5
BALANCE = 100
RATE = 4.0
BURST = 4.0


async def counter(scene: Scene) -> None:
    """Add one, again and again."""
    made = scene.client.counter("fr/counter")
    while not scene.stop.is_set():
        asked = now()
        value = await scene.step("counter", "add", made.add(timeout=_CALL_S), within=_CALL_S)
        scene.notes.note("counter", "added", asked=asked, value=value)
        if value is not None:
            scene.ok("counter", asked)
        await scene.pause()


async def counter_end(client: coord.Client, notes: Notes) -> None:
    """Read the sum."""
    notes.note("counter", "final", value=await client.counter("fr/counter").value())


async def sharded_counter(scene: Scene) -> None:
    """Add one to a counter in parts."""
    made = scene.client.sharded_counter("fr/sharded", shards=4)
    while not scene.stop.is_set():
        asked = now()
        known = await scene.did("sharded_counter", "add", made.add(timeout=_CALL_S), within=_CALL_S)
        scene.notes.note("sharded_counter", "added", asked=asked, value=0 if known else None)
        if known:
            scene.ok("sharded_counter", asked)
        await scene.pause()


async def sharded_counter_end(client: coord.Client, notes: Notes) -> None:
    """Read the sum."""
    value = await client.sharded_counter("fr/sharded", shards=4).value()
    notes.note("sharded_counter", "final", value=value)


async def id_allocator(scene: Scene) -> None:
    """Ids of small blocks, so that nearly every one costs a request."""
    made = scene.client.id_allocator("fr/ids", block=2)
    while not scene.stop.is_set():
        asked = now()
        number = await scene.step(
            "id_allocator", "next", made.next(timeout=_CALL_S), within=_CALL_S
        )
        if number is not None:
            scene.notes.note("id_allocator", "id", asked=asked, value=number)
            scene.ok("id_allocator", asked)
        await scene.pause()


async def atomic(scene: Scene) -> None:
    """A cell that everybody raises by one."""
    cell = scene.client.atomic("fr/atomic", int)
    while not scene.stop.is_set():
        asked = now()
        done = await scene.step(
            "atomic", "update", cell.update(_next, timeout=_CALL_S), within=_CALL_S
        )
        value = None if done is None else done.value
        scene.notes.note("atomic", "added", asked=asked, value=value)
        if done is not None:
            scene.ok("atomic", asked)
        await scene.pause()


def _next(value: int | None) -> int:
    return (value or 0) + 1


async def atomic_end(client: coord.Client, notes: Notes) -> None:
    """Read the cell."""
    found = await client.atomic("fr/atomic", int).get()
    notes.note("atomic", "final", value=found.value or 0)


async def stm(scene: Scene) -> None:
    """Move money between accounts, and number the transfers."""

    async def transfer(tx: coord.StmTxn) -> tuple[int, int]:
        source, target = scene.rng.sample(range(ACCOUNTS), 2)
        balances = [
            int(await tx.get(f"fr-bank/{n}", b"%d" % BALANCE) or 0) for n in range(ACCOUNTS)
        ]
        amount = scene.rng.randint(1, 10)
        tx.put(f"fr-bank/{source}", str(balances[source] - amount))
        tx.put(f"fr-bank/{target}", str(balances[target] + amount))
        number = int(await tx.get("fr-bank/count") or 0) + 1
        tx.put("fr-bank/count", str(number))
        return number, sum(balances)

    while not scene.stop.is_set():
        asked = now()
        done = await scene.step(
            "stm", "transfer", scene.client.stm(transfer, timeout=_CALL_S), within=_CALL_S
        )
        number, total = (None, None) if done is None else done.value
        scene.notes.note("stm", "added", asked=asked, value=number, total=total)
        if done is not None:
            scene.ok("stm", asked)
        await scene.pause()


async def stm_end(client: coord.Client, notes: Notes) -> None:
    """Read all accounts at one revision."""
    found = {kv.key: int(kv.value) for kv in (await client.get_prefix("fr-bank/")).items}
    count = found.pop(b"fr-bank/count", 0)
    total = sum(found.values()) + BALANCE * (ACCOUNTS - len(found))
    notes.note("stm", "final", value=count, total=total)


async def rate_limiter(scene: Scene) -> None:
    """All together ask for more than the rate."""
    made = scene.client.rate_limiter("fr/rate", RATE, burst=BURST)
    while not scene.stop.is_set():
        asked = now()
        acquire = made.acquire(timeout=_CALL_S)
        if await scene.did("rate_limiter", "acquire", acquire, within=_CALL_S):
            scene.notes.note("rate_limiter", "permit", asked=asked)
            scene.ok("rate_limiter", asked)
        await scene.pause(0.3)
