"""Web hooks: each event reaches its receiver, however often the sender or the receiver dies, and counts once there.

Problem: an event must be told to somebody else's HTTP server. That server may be down, may answer too late, or may
have done its part although no answer came back; and the process that sends may die in between.

Guarantee: an event that was put is sent until it was answered with 2xx, or has failed ``ATTEMPTS`` times and is a
dead letter. A request may arrive more than once, always with the same ``Idempotency-Key``; the receiver does the work
for a key once and answers its repetitions as it did then. ``Fencing-Token`` is higher at each delivery of an event:
a request of a sender that slept through its claim has a lower one than its successor's, and is refused.

On loss: the request is cancelled, and another sender has the event. What the old one had sent already is refused, or
answered as a repetition.

Run it: ``python -m recipes.web_hooks``, which sends to a receiver of its own on the loopback; needs ``httpx2``.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import httpx2
from typing_extensions import override

import coord

if TYPE_CHECKING:
    from collections.abc import Generator

QUEUE = "recipes/web-hooks"
ATTEMPTS = 3
PAUSES = coord.Backoff(first=0.05, most=60)
"""Real ones begin with seconds."""


# -- sending -------------------------------------------------------------------------------------------------------


def hooks(client: coord.Client) -> coord.WorkQueue:
    """Return the queue; those who put and those who send must agree on its numbers."""
    return client.work_queue(QUEUE, max_attempts=ATTEMPTS, backoff=PAUSES)


async def deliver(http: httpx2.AsyncClient, url: str, item: coord.WorkItem) -> None:
    """Send one event. Raises what httpx2 raises for anything but 2xx, which gives the event back."""
    headers = {"Idempotency-Key": item.id, "Fencing-Token": str(item.token)}
    answer = await http.post(url, content=item.value, headers=headers, timeout=10)
    answer.raise_for_status()


async def send(queue: coord.WorkQueue, http: httpx2.AsyncClient, url: str) -> None:
    """Send what is in the queue, and what comes; ends by being cancelled. Any number of processes may do this."""
    async for item in queue.consume():
        try:
            async with item:
                await deliver(http, url, item)
        except httpx2.HTTPError as error:
            print(f"attempt {item.attempt}: {type(error).__name__}")
        except coord.ClaimLost:
            print(f"attempt {item.attempt}: somebody else sends it")


# -- receiving -----------------------------------------------------------------------------------------------------


class Inbox:
    """What a receiver does with a request; here in memory, really in the transaction that does the work."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tokens: dict[str, int] = {}
        self._answers: dict[str, str] = {}
        self.done: list[str] = []
        """The events whose work was done, in order."""

    def take(self, key: str, token: int, body: str) -> tuple[HTTPStatus, str]:
        """Do the work of ``key`` once; return the status and the answer."""
        with self._lock:
            if token < self._tokens.get(key, 0):
                return HTTPStatus.CONFLICT, "somebody has taken over from you"
            self._tokens[key] = token
            if key not in self._answers:
                self.done.append(body)
                self._answers[key] = f"number {len(self.done)}"
            return HTTPStatus.OK, self._answers[key]


class Receiver(BaseHTTPRequestHandler):
    """Takes requests for the inbox of its server, with what goes wrong in real life."""

    inbox: Inbox
    answers_to_lose: list[str]

    def do_POST(self) -> None:
        """Take an event."""
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        if body == "refund 8":
            self.reply(HTTPStatus.NOT_FOUND, "no such invoice")
            return
        key, token = self.headers["Idempotency-Key"], int(self.headers["Fencing-Token"])
        status, text = self.inbox.take(key, token, body)
        if body in self.answers_to_lose:
            self.answers_to_lose.remove(body)
            self.close_connection = True  # the work is done, and nobody is told
            return
        self.reply(status, text)

    def reply(self, status: HTTPStatus, text: str) -> None:
        """Answer."""
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    @override
    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def receiver(inbox: Inbox, answers_to_lose: list[str]) -> Generator[str]:
    """Run a receiver on a thread; gives its URL."""
    parts = {"inbox": inbox, "answers_to_lose": answers_to_lose}
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Ours", (Receiver,), parts)) as server:
        serving = threading.Thread(target=server.serve_forever, args=(0.05,))
        serving.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/hooks"
        finally:
            server.shutdown()
            serving.join()


# -- both ----------------------------------------------------------------------------------------------------------


async def main() -> None:
    inbox = Inbox()
    async with coord.connect() as client, hooks(client) as queue, httpx2.AsyncClient() as http:
        for event in ("pay 7", "refund 8", "pay 9"):
            await queue.put(event)
        with receiver(inbox, answers_to_lose=["pay 7"]) as url:
            async with asyncio.TaskGroup() as group:
                sending = group.create_task(send(queue, http, url))
                while (await queue.stats()).items:  # noqa: ASYNC110 - nothing tells that it is empty
                    await asyncio.sleep(0.05)
                sending.cancel()
        for letter in await queue.dead_letters():
            print("dead:", letter.value.decode(), "after", letter.attempts, "attempts")
            await queue.purge(letter.id)
        print("done, each once:", ", ".join(sorted(inbox.done)))


if __name__ == "__main__":
    asyncio.run(main())
