"""``queue put``, ``take``, ``work`` and ``dead``: the queues of the SDK from a shell."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

import click

from coord.cli.connection import Store, run
from coord.cli.holding import Interrupted, Signals, caught, or_signal, while_running
from coord.cli.options import (
    BadArguments,
    ChildCommand,
    CommandFailed,
    Group,
    child_of,
    duration,
    settings_of,
    to_bytes,
)
from coord.cli.output import encoded
from coord.errors import CoordError, CoordTimeout

if TYPE_CHECKING:
    import coord
    from coord.recipes.queues import QueueItem

_KINDS = click.Choice(["fifo", "priority", "delay"])
_SIGNAL_BASE = 128


@click.group(cls=Group)
def queue() -> None:
    """Put and take items, work on jobs, and look at those that failed."""


def _name_and(words: tuple[str, ...], what: str, most: int) -> tuple[str, ...]:
    if not 1 <= len(words) <= most:
        raise BadArguments(f"{what} takes a queue's name" + (" and a value" if most > 1 else ""))
    return words


def _value(words: tuple[str, ...]) -> bytes:
    """Return the value that is given, or what stands on standard input."""
    return to_bytes(words[1]) if len(words) > 1 else sys.stdin.buffer.read()


@queue.command()
@click.argument("words", nargs=-1, metavar="NAME [VALUE]")
@click.option("--work", is_flag=True, help="A job of a work queue.")
@click.option(
    "--priority", type=int, help="0 (most urgent) to 65535: of a priority queue, or with --work."
)
@click.option(
    "--delay", type=duration, help="Not before so long: of a delay queue, or with --work."
)
@click.option("--dedup-id", help="With --work: put it once, whoever puts it.")
@click.pass_context
def put(
    ctx: click.Context,
    words: tuple[str, ...],
    *,
    work: bool,
    priority: int | None,
    delay: float | None,
    dedup_id: str | None,
) -> int:
    """Put VALUE, or standard input, into the queue NAME; print its revision, with --work its id.

    Each item goes in exactly once, whatever answers are lost.
    """
    name = to_bytes(_name_and(words, "put", 2)[0])
    if not work and dedup_id is not None:
        raise BadArguments("--dedup-id is for jobs: add --work")
    if not work and priority is not None and delay is not None:
        raise BadArguments("give either --priority or --delay, or add --work")
    value = _value(words)

    async def job(store: Store) -> None:
        receipt = await store.client.work_queue(name).put(
            value, priority=100 if priority is None else priority, delay=delay, dedup_id=dedup_id
        )
        if store.printer.as_json:
            told = {
                "id": receipt.id,
                "revision": receipt.revision,
                "duplicate": receipt.duplicate,
            }
            store.printer.json(told)
        else:
            store.printer.line(receipt.id + (" (duplicate)" if receipt.duplicate else ""))

    async def item(store: Store) -> None:
        client = store.client
        if priority is not None:
            revision = await client.priority_queue(name).put(value, priority=priority)
        elif delay is not None:
            revision = await client.delay_queue(name).put(value, delay=delay)
        else:
            revision = await client.queue(name).put(value)
        if store.printer.as_json:
            store.printer.json({"revision": revision})
        else:
            store.printer.line(str(revision))

    return run(settings_of(ctx), job if work else item)


@queue.command()
@click.argument("words", nargs=-1, metavar="NAME")
@click.option("--kind", type=_KINDS, default="fifo", show_default=True, help="As it was put.")
@click.option("--timeout", type=duration, help="Wait at most so long for each.")
@click.option("--try", "try_", is_flag=True, help="Do not wait at all.")
@click.option("--count", type=click.IntRange(min=1), default=1, help="So many.  [default: 1]")
@click.pass_context
def take(
    ctx: click.Context,
    words: tuple[str, ...],
    *,
    kind: str,
    timeout: float | None,
    try_: bool,
    count: int,
) -> int:
    """Take the first item of the queue NAME, and print its value.

    Who takes an item and dies has lost it; `coord queue work` keeps it until the work is done.
    """
    (name,) = _name_and(words, "take", 1)
    if try_ and timeout is not None:
        raise BadArguments("--try does not wait: give either --try or --timeout")

    async def work(store: Store) -> None:
        made = _queue(store.client, to_bytes(name), kind)
        with caught() as signals:
            async with made:
                for _ in range(count):
                    waiting = made.try_get() if try_ else made.get(timeout=timeout)
                    item = await or_signal(waiting, signals, f"waiting for queue {name}")
                    if item is None:
                        raise CommandFailed(f"queue {name} is empty")
                    _show(store, item)

    return run(settings_of(ctx), work)


def _queue(
    client: coord.Client, name: bytes, kind: str
) -> coord.Queue | coord.PriorityQueue | coord.DelayQueue:
    if kind == "priority":
        return client.priority_queue(name)
    return client.delay_queue(name) if kind == "delay" else client.queue(name)


def _show(store: Store, item: QueueItem) -> None:
    if store.printer.as_json:
        value = encoded(item.value)
        store.printer.json({"value": value, "revision": item.revision, "returned": item.returned})
    else:
        store.printer.data(item.value)


@queue.command(cls=ChildCommand)
@click.argument("words", nargs=-1, metavar="NAME")
@click.option("--ttl", type=int, default=10, show_default=True, help="Seconds of the session.")
@click.option("--max-attempts", type=int, default=5, show_default=True, help="Then it is dead.")
@click.option("--count", type=click.IntRange(min=1), help="End after so many jobs.")
@click.option("--timeout", type=duration, help="End when no job came for so long.")
@click.option(
    "--kill-after",
    type=duration,
    default="5s",
    show_default=True,
    help="Between SIGTERM and SIGKILL, when the job is lost.",
)
@click.pass_context
def work(
    ctx: click.Context,
    words: tuple[str, ...],
    *,
    ttl: int,
    max_attempts: int,
    count: int | None,
    timeout: float | None,
    kill_after: float,
) -> int:
    """Run COMMAND for each job of the work queue NAME, until Ctrl-C or SIGTERM.

    COMMAND gets the job on its standard input, and finds COORD_ITEM_ID, COORD_ITEM_ATTEMPT and COORD_FENCING_TOKEN in
    its environment. If it exits with 0, the job is done; else it comes again later, and after --max-attempts it is
    dead. A signal is passed on to it; the job is then given back uncounted, unless COMMAND exits with 0 all the same.
    """
    command = child_of(ctx)
    (name,) = _name_and(words, "work", 1)
    if not command:
        raise BadArguments("work takes a command behind --")

    async def serve(store: Store) -> int:
        with caught() as signals:
            async with store.client.session(ttl=ttl) as session:
                queue = store.client.work_queue(
                    to_bytes(name), max_attempts=max_attempts, session=session
                )
                async with queue:
                    return await _serve(
                        queue, name, signals, command, kill_after, count=count, timeout=timeout
                    )

    return run(settings_of(ctx), serve)


async def _serve(
    queue: coord.WorkQueue,
    name: str,
    signals: Signals,
    command: list[str],
    kill_after: float,
    *,
    count: int | None,
    timeout: float | None,
) -> int:
    done = 0
    while count is None or done < count:
        try:
            (item,) = await or_signal(
                queue.receive(timeout=timeout), signals, f"waiting for work queue {name}"
            )
        except Interrupted:
            return 0
        except CoordTimeout:
            return 0
        stopped = await _handle(item, signals, command, kill_after)
        done += 1
        if stopped:
            return _SIGNAL_BASE + stopped
    return 0


async def _handle(
    item: coord.WorkItem, signals: Signals, command: list[str], kill_after: float
) -> int:
    """Run the command for one job; return the signal that has come meanwhile, 0 for none."""
    told = {
        "COORD_ITEM_ID": item.id,
        "COORD_ITEM_ATTEMPT": str(item.attempt),
        "COORD_FENCING_TOKEN": str(item.token),
    }
    try:
        code = await while_running(
            signals, item, "job", command, told, kill_after, given=item.value
        )
    except CommandFailed as error:
        if not item.lost.is_set():
            await item.release()
            raise
        print(f"Error: {error}", file=sys.stderr)  # noqa: T201 - somebody else has it, and we go on
        code = None
    finally:
        signals.on_signal = None
    stopped = signals.numbers[0] if signals.numbers else 0
    with contextlib.suppress(CoordError):  # lost in the last moment: it comes again
        if code == 0:
            await item.ack()
        elif code is not None and stopped:
            await item.nack(refund=True)
        elif code is not None:
            await item.nack(reason=f"exit code {code}")
    return stopped


@queue.command()
@click.argument("words", nargs=-1, metavar="NAME")
@click.option("--requeue", metavar="ID", help="Make it a job again.")
@click.option("--purge", metavar="ID", help="Delete it.")
@click.pass_context
def dead(
    ctx: click.Context, words: tuple[str, ...], *, requeue: str | None, purge: str | None
) -> int:
    """Show the jobs of the work queue NAME that failed too often: id, attempts, last reason, value."""
    (name,) = _name_and(words, "dead", 1)
    if requeue is not None and purge is not None:
        raise BadArguments("give either --requeue or --purge")

    async def look(store: Store) -> None:
        queue = store.client.work_queue(to_bytes(name))
        if requeue is not None or purge is not None:
            item_id = requeue or purge or ""
            found = await (queue.requeue(item_id) if requeue is not None else queue.purge(item_id))
            if not found:
                raise CommandFailed(f"work queue {name} has no dead job {item_id}")
            return
        for letter in await queue.dead_letters():
            if store.printer.as_json:
                told = {
                    "id": letter.id,
                    "attempts": letter.attempts,
                    "last_error": letter.last_error,
                    "value": encoded(letter.value),
                }
                store.printer.json(told)
            else:
                store.printer.line(f"{letter.id} {letter.attempts} {letter.last_error!r}")
                store.printer.data(letter.value)

    return run(settings_of(ctx), look)
