"""What an entry in a lock's line says of its owner, and how it is read back."""

from __future__ import annotations

import asyncio
import itertools
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast
from weakref import WeakKeyDictionary

from coord._telemetry import entry_context
from coord.runtime import process_identity

if TYPE_CHECKING:
    from collections.abc import Mapping

    from coord.runtime.seams import Env
    from coord.store.values import KeyValue

_numbers = itertools.count(1)
_known: WeakKeyDictionary[asyncio.Task[object], str] = WeakKeyDictionary()


@dataclass(frozen=True, slots=True, kw_only=True)
class LineEntry:
    """One holder or waiter: its key, its token, its lease, and what it says of itself (empty for other clients)."""

    key: bytes
    token: int
    lease_id: int
    metadata: Mapping[str, object]


def entry_of(kv: KeyValue) -> LineEntry:
    """Return a key of a line as its entry."""
    return LineEntry(
        key=kv.key, token=kv.create_revision, lease_id=kv.lease, metadata=parse(kv.value)
    )


def parse(value: bytes) -> Mapping[str, object]:
    """Return an entry's metadata, empty when it is none: anybody may have written it."""
    try:
        parsed: object = json.loads(value)
    except (ValueError, RecursionError):
        return {}
    return cast("Mapping[str, object]", parsed) if isinstance(parsed, dict) else {}


def owner_in(value: bytes) -> str:
    """Return which task or thread an entry belongs to, empty for entries that are none of ours."""
    told = parse(value)
    owner = told.get("owner")
    return owner if isinstance(owner, str) and "nonce" in told else ""


def who(entry: LineEntry) -> str:
    """Return where an entry's process is, for messages; empty when it does not say."""
    host, pid = entry.metadata.get("host"), entry.metadata.get("pid")
    return f", {host} pid {pid}" if host else ""


def metadata(env: Env, nonce: str, owner: str, label: str | None) -> bytes:
    """Return what our entry says of us, as JSON."""
    # Written out: an encoder for all of it is made anew each time.
    host, pid = process_identity()
    since = round(env.clock.wall(), 3)
    text = (
        f'{{"v":1,"nonce":"{nonce}","owner":{json.dumps(owner)},"host":{json.dumps(host)}'
        f',"pid":{pid},"since":{since}'
    )
    more = entry_context()
    if label is not None:
        more = {"label": label, **more}
    for key, value in more.items():
        text += f',"{key}":{json.dumps(value)}'
    return (text + "}").encode()


def task_identity() -> str:
    """Return a name of the calling task that no other task of this process ever has.

    The address of a task is used again after its end: a lock that it has handed on would then seem to belong to the
    next task there.
    """
    task = asyncio.current_task()
    if task is None:
        return "no-task"
    known = _known.get(task)
    if known is None:
        known = _known[task] = f"task-{next(_numbers)}"
    return known
