"""The line of one session for one name, by plain calls."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import cast

from coord.local_line import LocalLine
from coord.session import Session


def empty_session() -> Session:
    # All that a line needs of it.
    return cast("Session", SimpleNamespace(lines={}))


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_whoever_only_tries_does_not_queue() -> None:
    session = empty_session()
    head = await LocalLine.join(session, b"a")
    assert await LocalLine.try_join(session, b"a") is None
    assert await LocalLine.try_join(session, b"b") is not None
    head.leave()
    again = await LocalLine.try_join(session, b"a")
    assert again is not None
    again.leave()
    assert b"a" not in session.lines


async def test_whoever_only_tries_waits_for_one_who_has_given_up() -> None:
    session = empty_session()
    head = await LocalLine.join(session, b"a")
    head.give_up()
    async with asyncio.TaskGroup() as group:
        trying = group.create_task(LocalLine.try_join(session, b"a"))
        await turns()
        assert not trying.done()
        # Another who tries has that one before it.
        assert await LocalLine.try_join(session, b"a") is None
        head.leave()
    line = trying.result()
    assert line is not None
    assert await LocalLine.try_join(session, b"a") is None
    line.leave()
    assert b"a" not in session.lines


async def test_a_cancelled_try_leaves_no_place() -> None:
    session = empty_session()
    head = await LocalLine.join(session, b"a")
    head.give_up()
    async with asyncio.TaskGroup() as group:
        trying = group.create_task(LocalLine.try_join(session, b"a"))
        await turns()
        trying.cancel()
    assert trying.cancelled()
    head.leave()
    assert b"a" not in session.lines
