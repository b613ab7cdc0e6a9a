"""Web hooks: what a receiver refuses and repeats, and senders that die or sleep."""

from __future__ import annotations

import asyncio
from http import HTTPStatus

import httpx2
import pytest

import coord
from recipes.web_hooks import Inbox, deliver, hooks, receiver, send
from tests.recipes.programs import end, line_of, start
from tests.support.servers import ServerProcess

# Claims the event, sends it, and is killed before it can say that it has.
SENDER = """
import asyncio, sys
import httpx2, coord
from recipes.web_hooks import deliver, hooks

async def main():
    async with coord.connect() as client, client.session(ttl=2) as session, httpx2.AsyncClient() as http:
        queue = client.work_queue("recipes/web-hooks", max_attempts=3, session=session)
        (item,) = await queue.receive()
        await deliver(http, sys.argv[1], item)
        print("sent", flush=True)
        sys.stdin.readline()

asyncio.run(main())
"""


def test_a_repetition_is_answered_and_does_nothing() -> None:
    inbox = Inbox()
    first = inbox.take("a", 5, "pay")
    assert first == (HTTPStatus.OK, "number 1")
    assert inbox.take("a", 5, "pay") == first
    assert inbox.take("a", 6, "pay") == first
    assert inbox.take("b", 4, "another") == (HTTPStatus.OK, "number 2")
    assert inbox.done == ["pay", "another"]


def test_a_lower_token_is_refused() -> None:
    inbox = Inbox()
    inbox.take("a", 6, "pay")
    assert inbox.take("a", 5, "pay")[0] == HTTPStatus.CONFLICT
    assert inbox.done == ["pay"]


async def test_a_sender_that_slept_is_refused_by_the_receiver() -> None:
    inbox = Inbox()
    async with (
        coord.connect("memory:") as client,
        httpx2.AsyncClient() as http,
        hooks(client) as slow,
        hooks(client) as quick,
    ):
        await slow.put("pay 1")
        (old,) = await slow.receive(timeout=10)
        await old.nack(delay=0)
        (new,) = await quick.receive(timeout=10)
        with receiver(inbox, answers_to_lose=[]) as url:
            await deliver(http, url, new)
            await new.ack()
            with pytest.raises(httpx2.HTTPStatusError, match="409"):
                await deliver(http, url, old)
    assert inbox.done == ["pay 1"]


@pytest.mark.processes
async def test_a_sender_killed_before_it_could_say_so_is_followed_by_another(
    coord_server: ServerProcess,
) -> None:
    inbox = Inbox()
    async with coord.connect(coord_server.endpoint) as client, hooks(client) as queue:
        await queue.put("pay 2")
        with receiver(inbox, answers_to_lose=[]) as url:
            sender = start("-c", SENDER, url, endpoint=coord_server.endpoint)
            try:
                assert await asyncio.to_thread(line_of, sender) == "sent"
            finally:
                end(sender)  # kill -9
            async with httpx2.AsyncClient() as http, asyncio.TaskGroup() as group:
                sending = group.create_task(send(queue, http, url))
                while (await queue.stats()).items:
                    await asyncio.sleep(0.05)
                sending.cancel()
        assert await queue.dead_letters() == ()
    assert inbox.done == ["pay 2"]
