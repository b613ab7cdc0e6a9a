"""Linearizable reads of a member: one question on its way at a time, and none that waits for a lost answer."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import cast

from coord_server.raft import Event, Index, RaftCore, ReadReady, ReadRequested
from coord_server.reading import Reading


class _Core:
    leader = 1


class Reader:
    """A member's reads, with raft's part played by hand."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.done: list[str] = []
        self.reading = Reading(cast("RaftCore", _Core()), self._step, incarnation=40)
        self.reading.start()

    def _step(self, event: Event) -> None:
        assert isinstance(event, ReadRequested)
        self.asked.append(event.context)

    async def read(self, *names: str) -> None:
        for name in names:
            self.reading.add(partial(self.done.append, name), lambda _: None)
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    async def answer(self, context: int, index: int) -> None:
        self.reading.ready(ReadReady(context, Index(index)))
        self.reading.serve(100)
        await asyncio.sleep(0)
        await asyncio.sleep(0)


async def test_reads_that_come_while_one_is_asked_for_share_the_next_question() -> None:
    reader = Reader()
    await reader.read("a")
    await reader.read("b")
    await reader.read("c", "d")
    assert reader.asked == [41]
    await reader.answer(41, 5)
    assert reader.done == ["a"]
    assert reader.asked == [41, 42]
    await reader.answer(42, 5)
    assert reader.done == ["a", "b", "c", "d"]
    await reader.read("e")
    assert reader.asked == [41, 42, 43]


async def test_nobody_waits_for_an_answer_that_is_lost() -> None:
    reader = Reader()
    await reader.read("a")
    await reader.read("b")
    reader.reading.tick(1, retry_ticks=5)
    await reader.read()
    assert reader.asked == [41]
    reader.reading.tick(2, retry_ticks=5)
    await reader.read()
    assert reader.asked == [41, 42]
    await reader.answer(42, 5)
    assert reader.done == ["b"]
    # The first one is asked again when it is certainly lost, and both answers would do.
    reader.reading.tick(5, retry_ticks=5)
    reader.reading.tick(6, retry_ticks=5)
    await reader.read()
    assert reader.asked == [41, 42, 43]
    await reader.answer(43, 5)
    assert reader.done == ["b", "a"]


async def test_a_new_leader_is_asked_at_once() -> None:
    reader = Reader()
    await reader.read("a")
    await reader.read("b")
    reader.reading.leader_changed()
    await reader.read()
    assert reader.asked == [41, 42]
    await reader.answer(42, 5)
    assert reader.done == ["b", "a"]
