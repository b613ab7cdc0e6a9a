"""What a client may have open when it closes, one by one, through either face of it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import os
import threading
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest

import coord
import coord.sync

KINDS = ("idle", "session", "lock", "watch", "cache", "election")
_numbers = itertools.count()


async def open_kind(kind: str, client: coord.Client) -> object:
    """Open one kind of thing, and leave it open."""
    name = f"open/{next(_numbers)}"
    match kind:
        case "session":
            return await client.session(ttl=20).open()
        case "lock":
            return await client.mutex(name).acquire()
        case "watch":
            return await client.watch(name, prefix=True).__aenter__()
        case "cache":
            view = client.cache(prefix=name)
            await view.open()
            return view
        case "election":
            await client.election(name).campaign("me")
            leaders = aiter(client.election(name).observe())
            await anext(leaders)
            return leaders
        case _:
            return await client.get(name)


def open_kind_sync(kind: str, client: coord.sync.Client) -> object:
    """The same, of a blocking client."""
    name = f"open/{next(_numbers)}"
    match kind:
        case "session":
            return client.session(ttl=20).open()
        case "lock":
            return client.mutex(name).acquire()
        case "watch":
            return client.watch(name, prefix=True).__enter__()
        case "cache":
            view = client.cache(prefix=name)
            view.open()
            return view
        case "election":
            client.election(name).campaign("me")
            leaders = client.election(name).observe()
            next(leaders)
            return leaders
        case _:
            return client.get(name)


@dataclass(frozen=True, slots=True)
class Holdings:
    """What this process holds of the system."""

    threads: frozenset[str] = field(default_factory=lambda: frozenset(_thread_names()))
    files: int = field(default_factory=lambda: psutil.Process().num_fds())
    names: tuple[str, ...] = field(default_factory=lambda: tuple(_open_files()))

    def more(self, before: Holdings) -> dict[str, object]:
        """Return what has come since ``before`` and not gone."""
        found: dict[str, object] = {}
        if threads := sorted(self.threads - before.threads):
            found["threads"] = threads
        if self.files > before.files:
            found["files"] = [name for name in self.names if name not in before.names]
        return found


def _thread_names() -> list[str]:
    return [f"{t.name} {t.ident}" for t in threading.enumerate()]


def _open_files() -> list[str]:
    found: list[str] = []
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # it has gone meanwhile, as the one that lists them has
            found.append(f"{number} {os.readlink(f'/proc/self/fd/{number}')}")
    return found


def tasks_of(client: coord.Client) -> set[asyncio.Task[Any]]:
    """The tasks that live where the client does, without the one that asks."""
    core: Any = client._core
    tasks = asyncio.all_tasks(core.runtime.loop)
    try:
        return tasks - {asyncio.current_task()}
    except RuntimeError:  # no loop runs here
        return tasks


@contextlib.contextmanager
def nothing_more() -> Generator[None]:
    """Fail if the block leaves a thread or a file descriptor. Threads that are told to end may take a moment.

    Circles of dead objects are no leak, if the garbage collector may look for them.
    """
    before = Holdings()
    yield
    pause = threading.Event()
    for _ in range(500):
        if not Holdings().more(before):
            return
        if gc.isenabled():
            gc.collect()
        pause.wait(0.02)
    pytest.fail(f"left: {Holdings().more(before)}")
