"""Spans belong to whoever called, also when hundreds of calls from several threads and loops cross over together."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

import coord
import coord.sync
from tests.support.telemetry import Listener, attributes_of, context_of, listening

ROOT = "caller"


@pytest.fixture
def listener() -> Iterator[Listener]:
    with listening() as made:
        yield made


def trees(listener: Listener) -> dict[object, list[str]]:
    """For each root's number, the names of its direct children, sorted; every trace must have one root."""
    roots = {context_of(span).span_id: attributes_of(span)["n"] for span in listener.named(ROOT)}
    children: dict[object, list[str]] = {number: [] for number in roots.values()}
    for span in listener.spans:
        if span.parent is not None and span.parent.span_id in roots:
            children[roots[span.parent.span_id]].append(span.name)
    return {number: sorted(names) for number, names in children.items()}


EXPECTED = sorted(
    ["coord.mutex.acquire", "coord.mutex.hold", "etcdserverpb.KV/Put", "etcdserverpb.KV/Txn"]
)


def check(listener: Listener, count: int) -> None:
    """Each root has its own put, wait, hold and release, and the wait and hold are those of its own lock."""
    assert trees(listener) == dict.fromkeys(range(count), EXPECTED)
    numbers = {context_of(span).span_id: attributes_of(span)["n"] for span in listener.named(ROOT)}
    for span in (*listener.named("coord.mutex.acquire"), *listener.named("coord.mutex.hold")):
        assert span.parent is not None
        assert attributes_of(span)["coord.name"] == f"own/{numbers[span.parent.span_id]}"


async def work(listener: Listener, client: coord.Client, session: coord.Session, n: int) -> None:
    with listener.tracer.start_as_current_span(ROOT, attributes={"n": n}):
        grant = await client.mutex(f"own/{n}", session=session).acquire()
        await client.put(f"own-value/{n}", "x")
        await grant.release()


async def test_hundreds_of_tasks_on_one_loop(listener: Listener, client: coord.Client) -> None:
    async with client.session(ttl=30) as session:
        listener.clear()
        async with asyncio.TaskGroup() as group:
            for n in range(200):
                group.create_task(work(listener, client, session, n))
    check(listener, 200)


async def test_several_threads_with_loops_of_their_own(listener: Listener) -> None:
    async with coord.connect("memory:") as client, client.session(ttl=30) as session:
        listener.clear()

        async def many(first: int) -> None:
            async with asyncio.TaskGroup() as group:
                for n in range(first, first + 40):
                    group.create_task(work(listener, client, session, n))

        await asyncio.gather(
            *[asyncio.to_thread(asyncio.run, many(first)) for first in range(0, 160, 40)]
        )
    check(listener, 160)


def test_blocking_threads(listener: Listener) -> None:
    with coord.sync.connect("memory:") as client, client.session(ttl=30) as session:
        listener.clear()

        def one(thread: int) -> None:
            for n in range(thread * 20, thread * 20 + 20):
                with listener.tracer.start_as_current_span(ROOT, attributes={"n": n}):
                    grant = client.mutex(f"own/{n}", session=session).acquire()
                    client.put(f"own-value/{n}", "x")
                    grant.release()

        threads = [threading.Thread(target=one, args=(thread,)) for thread in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    check(listener, 120)


async def test_a_stream_that_serves_many_keeps_nobody_s_context(listener: Listener) -> None:
    """The first watch opens the stream; later ones use it, when the first caller's span has long ended."""
    async with coord.connect("memory:") as client:
        with listener.tracer.start_as_current_span("first") as first:
            async with client.watch("a", start_revision=1):
                pass
        async with client.watch("b", start_revision=1) as watch:
            await client.put("b", "x")
            await anext(watch)
    (stream, *_) = listener.named("etcdserverpb.Watch/Watch")
    assert stream.parent is None
    assert first.get_span_context().trace_id != context_of(stream).trace_id
