"""What the recipes cost: each function plays one of them with ``n`` clients that wait or look on, and counts."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

import coord
from tests.costs.fleet import Fleet, Spent, quiet

WRITERS = 32
HAND_OVERS = 3
OBSERVERS = 5
ITEMS = 40
ROUNDS = 5

Acquire = Callable[[], Coroutine[Any, Any, coord.Grant]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """One figure, and what it must not exceed."""

    what: str
    figure: float
    at_most: float


@dataclass(slots=True)
class Sheet:
    """The figures of one recipe, filled by its function: ``n`` clients, a ``fleet`` that makes and counts them."""

    fleet: Fleet
    n: int
    costs: list[Cost] = field(default_factory=list[Cost])

    def note(self, what: str, figure: float, *, at_most: float) -> None:
        self.costs.append(Cost(what=what, figure=figure, at_most=at_most))

    async def clients(self, count: int) -> list[coord.Client]:
        """So many more, each with its session."""
        made = await self.fleet.grow(count)
        for client in made:
            await client.default_session()
        return made

    async def count(self, doing: Awaitable[Any]) -> Spent:
        """What ``doing`` costs, and everything that it makes others do."""
        await self.fleet.spent()
        await doing
        return await self.fleet.spent()


Row = Callable[[Sheet], Awaitable[None]]
ROWS: dict[str, Row] = {}


def row(recipe: str) -> Callable[[Row], Row]:
    """Note what counts a recipe."""

    def note(function: Row) -> Row:
        ROWS[recipe] = function
        return function

    return note


# -- locks -------------------------------------------------------------------------------------------------------------


async def in_line(acquires: Sequence[Acquire]) -> list[asyncio.Task[coord.Grant]]:
    """Let them line up, in this order."""
    waits: list[asyncio.Task[coord.Grant]] = []
    for acquire in acquires:
        waits.append(asyncio.ensure_future(acquire()))
        await asyncio.sleep(0.001)
    await quiet()
    return waits


async def give_up(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Cancel what has not ended."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    await quiet()


async def exclusive(
    sheet: Sheet,
    acquires: Sequence[Acquire],
    *,
    requests: int,
    woken: int = 1,
    events: int = 1,
    looking_on: Callable[[], Awaitable[object]] | None = None,
) -> None:
    """In and out alone; then hand-overs along a line of all the others, at which others may look on."""
    first, *others = acquires
    grants: list[coord.Grant] = []

    async def enter() -> None:
        grants.append(await first())

    sheet.note("in, alone", (await sheet.count(enter())).total, at_most=1)
    sheet.note("out, alone", (await sheet.count(grants.pop().release())).total, at_most=1)
    if looking_on is not None:
        await looking_on()
    await enter()
    waits = await in_line(others)
    counted: list[Spent] = []
    for number in range(HAND_OVERS):
        holder = grants[-1]
        counted.append(await sheet.count(holder.release()))
        grants.append(waits[number].result())
    line = f"hand-over, {len(others)} waiting"
    sheet.note(f"{line}: requests", max(spent.total for spent in counted), at_most=requests)
    sheet.note(f"{line}: woken", max(len(spent.woken) for spent in counted), at_most=woken)
    sheet.note(f"{line}: events", max(spent.events for spent in counted), at_most=events)
    await give_up(waits)


@row("Mutex")
async def mutex(sheet: Sheet) -> None:
    clients = await sheet.clients(sheet.n + 1)
    await exclusive(sheet, [client.mutex("name").acquire for client in clients], requests=3)


@row("Election with five observers")
async def election(sheet: Sheet) -> None:
    """Observers look at the leader once for each change."""
    clients = await sheet.clients(sheet.n + 1)

    def campaign(client: coord.Client) -> Acquire:
        return lambda: client.election("name").campaign(b"value")

    async def observe(client: coord.Client) -> None:
        async for _ in client.election("name").observe():
            pass

    observers: list[asyncio.Task[None]] = []

    async def looking_on() -> None:
        made = await sheet.clients(OBSERVERS)
        observers.extend(asyncio.ensure_future(observe(client)) for client in made)

    await exclusive(
        sheet,
        [campaign(client) for client in clients],
        requests=3 + OBSERVERS,
        woken=1 + OBSERVERS,
        events=1 + OBSERVERS,
        looking_on=looking_on,
    )
    await give_up(observers)


@row("MultiLock of two names")
async def multi_lock(sheet: Sheet) -> None:
    clients = await sheet.clients(sheet.n + 1)
    names = ["name/a", "name/b"]
    await exclusive(
        sheet, [client.multi_lock(names).acquire for client in clients], requests=3, events=2
    )


@row("RWLock, writers")
async def writers(sheet: Sheet) -> None:
    clients = await sheet.clients(sheet.n + 1)
    await exclusive(
        sheet, [client.rwlock("name").write().acquire for client in clients], requests=3
    )


@row("RWLock, readers behind a writer")
async def readers(sheet: Sheet) -> None:
    """All come in at once, with a look each."""
    writer, *others = await sheet.clients(sheet.n + 1)
    grant = await writer.rwlock("name").write().acquire()
    waits = await in_line([client.rwlock("name").read().acquire for client in others])
    spent = await sheet.count(grant.release())
    assert all(wait.done() for wait in waits)
    sheet.note(f"hand-over, {sheet.n} waiting: requests", spent.total, at_most=1 + sheet.n)
    sheet.note(f"hand-over, {sheet.n} waiting: woken", len(spent.woken), at_most=sheet.n)
    await give_up(waits)


@row("Semaphore")
async def semaphore(sheet: Sheet) -> None:
    """The head, and its successor, which is the next head."""
    clients = await sheet.clients(sheet.n + 1)
    made = [client.semaphore("name", limit=1) for client in clients]
    for each in made:
        await each.state()
    await exclusive(sheet, [each.acquire for each in made], requests=4, woken=2, events=2)


# -- views -------------------------------------------------------------------------------------------------------------


async def viewed(sheet: Sheet, write: Callable[[], Awaitable[Any]]) -> None:
    """One write, which ``n`` clients look at."""
    spent = await sheet.count(write())
    sheet.note("a write: requests", spent.total, at_most=1)
    sheet.note(f"a write, {sheet.n} viewers: reads", spent.reads, at_most=0)
    sheet.note(f"a write, {sheet.n} viewers: events", spent.events, at_most=sheet.n)
    sheet.note(f"a write, {sheet.n} viewers: told", len(spent.woken), at_most=sheet.n)
    assert len(spent.woken) == sheet.n


@row("Registry")
async def registry(sheet: Sheet) -> None:
    (writer,), viewers = await sheet.clients(1), await sheet.clients(sheet.n)
    async with contextlib.AsyncExitStack() as stack:
        for client in viewers:
            await stack.enter_async_context(client.registry("name").discover())

        async def register() -> None:
            await stack.enter_async_context(writer.registry("name").register("10.0.0.1:80"))

        await viewed(sheet, register)


@row("Membership")
async def membership(sheet: Sheet) -> None:
    (writer,), viewers = await sheet.clients(1), await sheet.clients(sheet.n)
    async with contextlib.AsyncExitStack() as stack:
        views = [asyncio.ensure_future(_follow(client)) for client in viewers]
        await quiet()

        async def join() -> None:
            await stack.enter_async_context(writer.membership("name").join())

        await viewed(sheet, join)
        await give_up(views)


async def _follow(client: coord.Client) -> None:
    async for _ in client.membership("name").watch():
        pass


@row("Cache")
async def cache(sheet: Sheet) -> None:
    (writer,), viewers = await sheet.clients(1), await sheet.clients(sheet.n)
    async with contextlib.AsyncExitStack() as stack:
        for client in viewers:
            await stack.enter_async_context(client.cache(prefix="name/"))
        await viewed(sheet, lambda: writer.put("name/key", "value"))


@row("Topic")
async def topic(sheet: Sheet) -> None:
    (writer,), viewers = await sheet.clients(1), await sheet.clients(sheet.n)
    async with contextlib.AsyncExitStack() as stack:
        for client in viewers:
            await stack.enter_async_context(client.topic("name").subscribe())
        await viewed(sheet, lambda: writer.topic("name").publish("message"))


@row("Config")
async def config(sheet: Sheet) -> None:
    (writer,), viewers = await sheet.clients(1), await sheet.clients(sheet.n)
    async with contextlib.AsyncExitStack() as stack:
        made = [
            await stack.enter_async_context(await client.config("name", int, default=0))
            for client in (writer, *viewers)
        ]
        spent = await sheet.count(made[0].publish(1))
        assert all(each.value == 1 for each in made)
        sheet.note("a write: requests", spent.total, at_most=1)
        sheet.note(f"a write, {sheet.n} viewers: reads", spent.reads, at_most=0)
        # The publisher is a viewer, too.
        sheet.note(f"a write, {sheet.n} viewers: events", spent.events, at_most=sheet.n + 1)


# -- queues ------------------------------------------------------------------------------------------------------------


@row("Queue")
async def queue(sheet: Sheet) -> None:
    producer, *consumers = await sheet.clients(sheet.n + 1)
    async with contextlib.AsyncExitStack() as stack:
        alone = await stack.enter_async_context(producer.queue("alone"))
        sheet.note("put", (await sheet.count(alone.put("item"))).total, at_most=1)
        sheet.note("take without a view", (await sheet.count(alone.get())).total, at_most=2)
        for _ in range(2):
            await alone.put("item")
        await alone.get()  # begins the view
        sheet.note("take with a view", (await sheet.count(alone.get())).total, at_most=1)

        puts = await stack.enter_async_context(producer.queue("name"))
        takes = [await stack.enter_async_context(client.queue("name")) for client in consumers]
        waits = [asyncio.ensure_future(_take_all(each)) for each in takes]
        await quiet()
        await sheet.fleet.spent()
        for _ in range(ITEMS):
            await puts.put("item")
            await asyncio.sleep(0.05)
        spent = await sheet.fleet.spent()
        assert await puts.size() == 0
        takes_per_item = (spent.total - ITEMS) / ITEMS
        sheet.note(f"an item, {sheet.n} waiting: takes", takes_per_item, at_most=1.2)
        # Each sees it come and go.
        sheet.note(f"an item, {sheet.n} waiting: events", spent.events / ITEMS, at_most=2 * sheet.n)
        await give_up(waits)


async def _take_all(queue: coord.Queue) -> None:
    while True:
        await queue.get()


@row("PriorityQueue, one priority")
async def priority_queue(sheet: Sheet) -> None:
    """Who puts reads the last number, and takes the next one."""
    clients = await sheet.clients(WRITERS)
    async with contextlib.AsyncExitStack() as stack:
        made = [await stack.enter_async_context(each.priority_queue("name")) for each in clients]
        sheet.note("put", (await sheet.count(made[0].put("item"))).total, at_most=2)

        async def put(queue: coord.PriorityQueue) -> None:
            for _ in range(ROUNDS):
                await queue.put("item")

        await contended(sheet, [put(each) for each in made], reads=1)
        assert await made[0].size() == WRITERS * ROUNDS + 1


@row("WorkQueue")
async def work_queue(sheet: Sheet) -> None:
    producer, *consumers = await sheet.clients(sheet.n + 1)
    async with contextlib.AsyncExitStack() as stack:
        alone = await stack.enter_async_context(producer.work_queue("alone"))
        await alone.put("first")
        (first,) = await alone.receive()
        await first.ack()
        sheet.note("put", (await sheet.count(alone.put("item"))).total, at_most=1)
        items: list[coord.WorkItem] = []

        async def receive() -> None:
            items.extend(await alone.receive())

        sheet.note("claim", (await sheet.count(receive())).total, at_most=1)
        sheet.note("ack", (await sheet.count(items[0].ack())).total, at_most=1)

        puts = await stack.enter_async_context(producer.work_queue("name"))
        takes = [await stack.enter_async_context(client.work_queue("name")) for client in consumers]
        waits = [asyncio.ensure_future(_work(each)) for each in takes]
        await quiet()
        await quiet()
        await sheet.fleet.spent()
        for _ in range(ITEMS):
            await puts.put("item")
            await asyncio.sleep(0.05)
        spent = await sheet.fleet.spent()
        assert (await puts.stats()).items == 0
        claims_per_item = (spent.total - 2 * ITEMS) / ITEMS  # without its put and its ack
        sheet.note(f"an item, {sheet.n} waiting: claims", claims_per_item, at_most=1.2)
        await give_up(waits)


async def _work(queue: coord.WorkQueue) -> None:
    while True:
        for item in await queue.receive():
            await item.ack()


# -- gates -------------------------------------------------------------------------------------------------------------


@row("Barrier")
async def barrier(sheet: Sheet) -> None:
    holder, *others = await sheet.clients(sheet.n + 1)
    gate = holder.barrier("name")
    sheet.note("hold", (await sheet.count(gate.hold())).total, at_most=1)
    waits: list[asyncio.Task[None]] = []

    async def wait() -> None:
        waits.extend(asyncio.ensure_future(client.barrier("name").wait()) for client in others)

    spent = await sheet.count(wait())
    sheet.note(f"{sheet.n} begin to wait: requests of each", spent.total / sheet.n, at_most=1)
    spent = await sheet.count(gate.release())
    assert all(wait.done() for wait in waits)
    sheet.note(f"release, {sheet.n} waiting: requests", spent.total, at_most=1)
    sheet.note(f"release, {sheet.n} waiting: events", spent.events, at_most=sheet.n)


@row("CountdownLatch")
async def latch(sheet: Sheet) -> None:
    counter, *others = await sheet.clients(sheet.n + 1)
    made = counter.latch("name", 2)
    await made.count_down("first")
    waits = [asyncio.ensure_future(client.latch("name", 2).wait()) for client in others]
    await quiet()
    spent = await sheet.count(made.count_down("second"))
    assert all(wait.done() for wait in waits)
    sheet.note(f"last count, {sheet.n} waiting: requests", spent.total, at_most=1)
    sheet.note(f"last count, {sheet.n} waiting: events", spent.events, at_most=sheet.n)


# -- cells -------------------------------------------------------------------------------------------------------------


@row("Counter")
async def counter(sheet: Sheet) -> None:
    clients = await sheet.clients(WRITERS)
    made = [client.counter("name") for client in clients]
    await made[0].add()
    sheet.note("add, warm", (await sheet.count(made[0].add())).total, at_most=1)

    async def add(one: coord.Counter) -> None:
        for _ in range(ROUNDS):
            await one.add()

    await contended(sheet, [add(one) for one in made])
    assert await made[0].value() == WRITERS * ROUNDS + 2


@row("STM")
async def stm(sheet: Sheet) -> None:
    """Its reads, and one commit."""
    clients = await sheet.clients(WRITERS)

    async def one_more(tx: coord.StmTxn) -> None:
        tx.put("name", str(int(await tx.get("name") or b"0") + 1))

    await clients[0].stm(one_more)
    spent = await sheet.count(clients[0].stm(one_more))
    sheet.note("read and write of one key", spent.total, at_most=2)

    async def add(client: coord.Client) -> None:
        for _ in range(ROUNDS):
            await client.stm(one_more, max_attempts=10_000)

    await contended(sheet, [add(client) for client in clients])
    found = await clients[0].get("name")
    assert found is not None
    assert int(found.value) == WRITERS * ROUNDS + 2


async def contended(
    sheet: Sheet, writing: Sequence[Coroutine[Any, Any, None]], *, reads: int = 0
) -> None:
    """All write at once."""

    async def all_at_once() -> None:
        async with asyncio.TaskGroup() as group:
            for each in writing:
                group.create_task(each)

    spent = await sheet.count(all_at_once())
    figure = spent.requests["Txn"] / (WRITERS * ROUNDS) - reads  # which these begin with
    sheet.note(f"a commit, {WRITERS} writers: transactions", round(figure, 2), at_most=3)
    sheet.note(f"a commit, {WRITERS} writers: events", spent.events, at_most=0)
