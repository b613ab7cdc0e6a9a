"""Who the calling thread, or task, is."""

from __future__ import annotations

import asyncio
import itertools
import threading
from weakref import WeakKeyDictionary

_numbers = itertools.count(1)
_known = threading.local()
_tasks: WeakKeyDictionary[asyncio.Task[object], str] = WeakKeyDictionary()


def thread_identity() -> str:
    """Return a name of the calling thread that no other thread of this process ever has.

    The interpreter's own numbers are used again after a thread has ended: a lock that a dead thread held would then
    seem to belong to the next one.
    """
    known: str | None = getattr(_known, "identity", None)
    if known is None:
        known = _known.identity = f"thread-{next(_numbers)}"
    return known


def task_identity() -> str:
    """Return a name of the calling task that no other task of this process ever has.

    Not by its address, which the next task may get: it would then seem to hold what a task that has ended left held.
    """
    task = asyncio.current_task()
    if task is None:
        return "no-task"
    known = _tasks.get(task)
    if known is None:
        known = _tasks[task] = f"task-{next(_numbers)}"
    return known
