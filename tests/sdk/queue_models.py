"""What the queues promise, as sequential models that a watch's history is played to."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from itertools import groupby

import pytest

import coord
from coord.recipes import turns
from coord.store.values import EventType, WatchEvent


@asynccontextmanager
async def recorded(client: coord.Client, prefix: str) -> AsyncGenerator[list[WatchEvent]]:
    """Yield a list that has every event below ``prefix`` when the block has ended."""
    events: list[WatchEvent] = []
    start = (await client.get_prefix(prefix)).revision
    yield events
    mark = prefix + "~end-of-history"
    await client.put(mark, "")
    await client.delete(mark)
    async with client.watch(prefix, prefix=True, start_revision=start + 1) as watch:
        async for event in watch:
            if event.kv.key == mark.encode():
                return
            events.append(event)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no machine be so slow that it looks as if a consumer had let an item pass."""
    monkeypatch.setattr(turns, "GRACE_S", 60.0)
    monkeypatch.setattr(turns, "_WAIT_MOST_S", 60.0)


class HandOffModel:
    """A queue in which only the head may be taken: ``by_key``, or in the order of the puts."""

    def __init__(self, *, by_key: bool) -> None:
        self.by_key = by_key
        self.items: dict[bytes, int] = {}
        self.taken: list[bytes] = []

    def head(self) -> bytes:
        if self.by_key:
            return min(self.items)
        return min(self.items, key=lambda key: (self.items[key], key))

    def play(self, events: list[WatchEvent]) -> None:
        for event in events:
            if event.type is EventType.PUT:
                assert event.kv.key not in self.items, "items are never modified"
                self.items[event.kv.key] = event.revision
            else:
                assert event.kv.key == self.head(), "somebody took another one than the head"
                del self.items[event.kv.key]
                self.taken.append(event.kv.key)


class WorkModel:
    """A work queue: who has claimed what, how often it was tried, and what became of it."""

    def __init__(self, name: str, max_attempts: int) -> None:
        self.prefix = name.encode() + b"/"
        self.max_attempts = max_attempts
        self.items: set[bytes] = set()
        self.claims: dict[bytes, int] = {}
        self.attempts: dict[bytes, int] = {}
        self.tokens: dict[bytes, int] = {}
        self.done: list[bytes] = []
        self.dead: list[bytes] = []

    def play(self, events: list[WatchEvent]) -> None:
        for _, group in groupby(events, key=lambda event: event.revision):
            changes: dict[tuple[str, bytes], WatchEvent] = {}
            for event in group:
                part, _, item = event.kv.key[len(self.prefix) :].partition(b"/")
                changes[part.decode(errors="replace"), item] = event
            for item in {item for _, item in changes}:
                self._step(item, {part: e for (part, i), e in changes.items() if i == item})

    def _step(self, item: bytes, news: dict[str, WatchEvent]) -> None:
        claim, put = news.get("claims"), news.get("items")
        if put is not None and put.type is EventType.PUT:
            assert item not in self.items, "an item never changes"
            self.items.add(item)
        if claim is not None and claim.type is EventType.PUT:
            assert item in self.items, "nobody claims what is not there"
            assert item not in self.claims, "one claim at a time"
            self.attempts[item] = self.attempts.get(item, 0) + 1
            assert json.loads(news["attempts"].kv.value)["n"] == self.attempts[item]
            assert self.attempts[item] <= self.max_attempts
            assert claim.revision > self.tokens.get(item, 0), "tokens rise"
            self.claims[item] = self.tokens[item] = claim.revision
        elif "attempts" in news and news["attempts"].type is EventType.PUT:
            self.attempts[item] = json.loads(news["attempts"].kv.value)["n"]
        if put is not None and put.type is EventType.DELETE:
            self.items.remove(item)
            if "dead" in news:
                assert item not in self.claims
                assert self.attempts.pop(item) == self.max_attempts
                self.dead.append(item)
            else:
                assert json.loads(news["done"].kv.value) == {"token": self.claims[item]}
                self.done.append(item)
                self.attempts.pop(item)
        if claim is not None and claim.type is EventType.DELETE:
            del self.claims[item]
