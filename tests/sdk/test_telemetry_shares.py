"""Waits and holds of read-write locks and semaphores: their spans, and whom they are linked to."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

import coord
from tests.support.lines import WITHIN_S, lined_up
from tests.support.telemetry import Listener, attributes_of, context_of, listening


@pytest.fixture
def listener() -> Iterator[Listener]:
    with listening() as made:
        yield made


async def test_a_read_write_lock(listener: Listener, client: coord.Client, prefix: str) -> None:
    async with client.session(ttl=20) as session:
        rw = client.rwlock(prefix + "rw", session=session)
        alone = await rw.write(downgradable=True).acquire()
        behind: list[asyncio.Task[coord.Grant]] = []
        for side in (rw.read(), rw.write()):
            behind.append(asyncio.ensure_future(side.acquire()))
            await lined_up(client, prefix + "rw", 2 + len(behind))
        assert await rw.read().try_acquire() is None
        await alone.release()
        async with asyncio.timeout(WITHIN_S):
            for task in behind:
                await (await task).release()
        waits = listener.named("coord.rwlock.acquire")
        (first,) = [span for span in waits if not span.links]
        for span in (
            *[s for s in waits if s is not first],
            listener.one("coord.rwlock.try_acquire"),
        ):
            (link,) = span.links
            assert link.context.span_id == context_of(first).span_id
            assert link.attributes is not None
            assert link.attributes["coord.token"] == alone.token
        assert attributes_of(first)["coord.queue.length"] == 0
        # The reader has the writer before it, the writer both, and the pair of one is one more entry.
        lengths = {attributes_of(span)["coord.queue.length"] for span in waits}
        assert lengths == {0, 1, 3}
        assert attributes_of(listener.one("coord.rwlock.try_acquire"))["coord.outcome"] == "refused"
        assert len(listener.named("coord.rwlock.hold")) == 3
    assert listener.count("coord.client.hold.duration", coord__recipe="rwlock") == 3


async def test_a_semaphore(listener: Listener, client: coord.Client, prefix: str) -> None:
    async with client.session(ttl=20) as session:
        semaphore = client.semaphore(prefix + "s", limit=1, session=session)
        held = await semaphore.acquire()
        behind = asyncio.ensure_future(semaphore.acquire())
        await lined_up(client, prefix + "s", 3)
        assert await semaphore.try_acquire() is None
        await held.release()
        async with asyncio.timeout(WITHIN_S):
            permit = await behind
        await client.delete(permit.key)
        await permit.lost.wait(timeout=WITHIN_S)
        first, second = listener.named("coord.semaphore.acquire")
        assert [link.context.span_id for link in second.links] == [context_of(first).span_id]
        assert [attributes_of(s)["coord.queue.length"] for s in (first, second)] == [0, 1]
        refused = listener.one("coord.semaphore.try_acquire")
        assert attributes_of(refused)["coord.outcome"] == "refused"
        released, lost = listener.named("coord.semaphore.hold")
        assert attributes_of(released)["coord.token"] == held.token
        assert attributes_of(lost)["coord.reason"] == "revoked"
    losses = {"coord__recipe": "semaphore", "coord__reason": "revoked"}
    assert listener.total("coord.client.losses", **losses) == 1
