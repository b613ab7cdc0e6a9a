"""Records as lines of JSON, and back.

One object per line; ``k`` says what it is. Keys are text, or ``b64:`` and base64 where they are no plain
text. Values are the same, except that long ones are given as ``len:`` with their length and CRC-32: enough
to tell whether two are equal. Messages are always base64.
"""

from __future__ import annotations

import base64
import json
import zlib
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from coord.testing.records import (
    Call,
    Fault,
    LogEntry,
    Meta,
    Pair,
    Record,
    Return,
    SeenEvent,
    SessionEvent,
    SessionPhase,
    Status,
    Tenure,
    TenurePhase,
    WatchEnded,
    WatchOpened,
    WatchResponded,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

T = TypeVar("T")

FORMAT_VERSION = 1

# Longer values are recorded by length and checksum.
LONG_VALUE_BYTES = 64


class HistoryError(ValueError):
    """A line that is no record, or a record that cannot stand where it does; the text says which."""


def key_text(key: bytes) -> str:
    """Return a key as text; ``key_bytes`` is the way back."""
    try:
        text = key.decode()
    except UnicodeDecodeError:
        text = ""
    if key and (not text.isprintable() or not text or text.startswith(("b64:", "len:"))):
        return _base64(key)
    return text


def key_bytes(text: str) -> bytes:
    """Return the key that was written as ``text``."""
    if text.startswith("b64:"):
        return base64.b64decode(text[4:], validate=True)
    return text.encode()


def value_text(value: bytes) -> str:
    """Return a value as text; equal values, and as good as only they, have equal texts."""
    if len(value) > LONG_VALUE_BYTES:
        return f"len:{len(value)}:{zlib.crc32(value):08x}"
    return key_text(value)


def encode(record: Record) -> str:
    """Return a record as its line, without the line's end."""
    return json.dumps(_object_of(record), separators=(",", ":"))


def read(lines: Iterable[str]) -> Iterator[Record]:
    """Return the records of lines. Raises HistoryError for one that is none; empty lines are skipped."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = _record_of(json.loads(line))
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise HistoryError(f"line {number} is no record: {error}") from error
        yield record


# Writing.


def _base64(data: bytes) -> str:
    return "b64:" + base64.b64encode(data).decode()


def _object_of(record: Record) -> dict[str, Any]:
    match record:
        case Call():
            made = {"k": "call", "id": record.id, "c": record.client, "ts": record.ts,
                    "op": record.op, "a": _base64(record.request)}  # fmt: skip
            return made | ({"ep": record.endpoint} if record.endpoint else {})
        case Return():
            result: dict[str, Any] = {"rev": record.revision, "changed": record.changed}
            if record.response:
                result["m"] = _base64(record.response)
            return {"k": "ret", "id": record.id, "ts": record.ts, "st": record.status,
                    "r": result, "err": record.error}  # fmt: skip
        case WatchOpened() | WatchResponded() | WatchEnded():
            return _watch_object(record)
        case SessionEvent():
            return {"k": "sess", "c": record.client, "ts": record.ts, "lease": record.lease,
                    "ph": record.phase, "ttl": record.ttl, "sent": record.sent}  # fmt: skip
        case Tenure():
            return {"k": record.kind, "id": record.attempt, "c": record.client, "ts": record.ts,
                    "name": key_text(record.name), "ph": record.phase, "token": record.token,
                    "key": key_text(record.key), "lease": record.lease, "until": record.until,
                    "rev": record.revision, "value": key_text(record.value),
                    "err": record.error}  # fmt: skip
        case Fault():
            return {"k": "fault", "ts": record.ts, "kind": record.kind, "on": list(record.on),
                    "phase": record.phase}  # fmt: skip
        case LogEntry():
            entry = {"op": record.op, "a": _base64(record.request)}
            return {"k": "log", "i": record.index, "t": record.term, "e": entry}
        case Meta():
            return {"k": "meta", "v": FORMAT_VERSION, "seed": record.seed,
                    "backend": record.backend, "options": dict(record.options)}  # fmt: skip


def _watch_object(record: WatchOpened | WatchResponded | WatchEnded) -> dict[str, Any]:
    match record:
        case WatchOpened():
            asked = {"key": key_text(record.key), "end": key_text(record.end), "rev": record.start,
                     "prev_kv": record.prev_kv, "no_puts": record.no_puts,
                     "no_deletes": record.no_deletes}  # fmt: skip
            return {"k": "wopen", "w": record.watcher, "ts": record.ts, "a": asked}
        case WatchResponded():
            return {"k": "wresp", "w": record.watcher, "ts": record.ts, "rev": record.revision,
                    "created": record.created, "progress": record.progress,
                    "fragment": record.fragment,
                    "ev": [_event_object(event) for event in record.events]}  # fmt: skip
        case WatchEnded():
            return {"k": "wend", "w": record.watcher, "ts": record.ts,
                    "compacted": record.compact_revision, "reached": record.reached}  # fmt: skip


def _pair_object(pair: Pair) -> list[Any]:
    return [pair.key, pair.value, pair.create_revision, pair.mod_revision, pair.version, pair.lease]


def _event_object(event: SeenEvent) -> dict[str, Any]:
    made: dict[str, Any] = {"del": event.is_delete, "kv": _pair_object(event.pair)}
    if event.previous is not None:
        made["prev"] = _pair_object(event.previous)
    return made


# Reading.


def _pair_of(row: Any) -> Pair:  # noqa: ANN401 - JSON
    key, value, *numbers = row
    create, mod, version, lease = (int(number) for number in numbers)
    if not isinstance(key, str) or not isinstance(value, str):
        raise TypeError("key and value are text")
    return Pair(
        key=key,
        value=value,
        create_revision=create,
        mod_revision=mod,
        version=version,
        lease=lease,
    )


def _event_of(made: Any) -> SeenEvent:  # noqa: ANN401 - JSON
    previous = _pair_of(made["prev"]) if "prev" in made else None
    return SeenEvent(is_delete=bool(made["del"]), pair=_pair_of(made["kv"]), previous=previous)


def _one_of(literal: Any, word: Any) -> Any:  # noqa: ANN401 - a Literal is no type
    if word not in get_args(literal):
        raise ValueError(f"no such word here: {word!r}")
    return word


def _call(made: dict[str, Any]) -> Call:
    return Call(
        id=int(made["id"]),
        client=str(made["c"]),
        ts=int(made["ts"]),
        op=str(made["op"]),
        request=key_bytes(made["a"]),
        endpoint=str(made.get("ep", "")),
    )


def _return(made: dict[str, Any]) -> Return:
    result = made["r"]
    return Return(
        id=int(made["id"]),
        ts=int(made["ts"]),
        status=_one_of(Status, made["st"]),
        revision=int(result["rev"]),
        changed=bool(result["changed"]),
        error=str(made["err"]),
        response=key_bytes(result.get("m", "")),
    )


def _watch_opened(made: dict[str, Any]) -> WatchOpened:
    asked = made["a"]
    return WatchOpened(
        watcher=str(made["w"]),
        ts=int(made["ts"]),
        key=key_bytes(asked["key"]),
        end=key_bytes(asked["end"]),
        start=int(asked["rev"]),
        prev_kv=bool(asked["prev_kv"]),
        no_puts=bool(asked["no_puts"]),
        no_deletes=bool(asked["no_deletes"]),
    )


def _watch_responded(made: dict[str, Any]) -> WatchResponded:
    return WatchResponded(
        watcher=str(made["w"]),
        ts=int(made["ts"]),
        revision=int(made["rev"]),
        created=bool(made["created"]),
        progress=bool(made["progress"]),
        fragment=bool(made["fragment"]),
        events=tuple(_event_of(event) for event in made["ev"]),
    )


def _watch_ended(made: dict[str, Any]) -> WatchEnded:
    return WatchEnded(
        watcher=str(made["w"]),
        ts=int(made["ts"]),
        compact_revision=int(made["compacted"]),
        reached=int(made["reached"]),
    )


def _session_event(made: dict[str, Any]) -> SessionEvent:
    return SessionEvent(
        client=str(made["c"]),
        ts=int(made["ts"]),
        lease=int(made["lease"]),
        phase=_one_of(SessionPhase, made["ph"]),
        ttl=int(made["ttl"]),
        sent=int(made["sent"]),
    )


def _tenure(made: dict[str, Any]) -> Tenure:
    return Tenure(
        kind="lock" if made["k"] == "lock" else "elect",
        attempt=int(made["id"]),
        client=str(made["c"]),
        name=key_bytes(made["name"]),
        ts=int(made["ts"]),
        phase=_one_of(TenurePhase, made["ph"]),
        token=int(made["token"]),
        key=key_bytes(made["key"]),
        lease=int(made["lease"]),
        until=int(made["until"]),
        revision=int(made["rev"]),
        value=key_bytes(made["value"]),
        error=str(made["err"]),
    )


def _fault(made: dict[str, Any]) -> Fault:
    phase = made["phase"]
    if phase not in ("begin", "end"):
        raise ValueError(f"a fault begins or ends, not {phase!r}")
    return Fault(
        kind=str(made["kind"]),
        ts=int(made["ts"]),
        phase=phase,
        on=tuple(str(one) for one in made["on"]),
    )


def _log_entry(made: dict[str, Any]) -> LogEntry:
    entry = made["e"]
    return LogEntry(
        index=int(made["i"]),
        term=int(made["t"]),
        op=str(entry["op"]),
        request=key_bytes(entry["a"]),
    )


def _meta(made: dict[str, Any]) -> Meta:
    if made["v"] != FORMAT_VERSION:
        raise ValueError(f"format {made['v']} is not {FORMAT_VERSION}")
    options = {str(name): str(value) for name, value in made["options"].items()}
    return Meta(backend=str(made["backend"]), seed=int(made["seed"]), options=options)


_READERS: dict[str, Callable[[dict[str, Any]], Record]] = {
    "call": _call,
    "ret": _return,
    "wopen": _watch_opened,
    "wresp": _watch_responded,
    "wend": _watch_ended,
    "sess": _session_event,
    "lock": _tenure,
    "elect": _tenure,
    "fault": _fault,
    "log": _log_entry,
    "meta": _meta,
}


def _record_of(made: dict[str, Any]) -> Record:
    reader = _READERS.get(made["k"])
    if reader is None:
        raise ValueError(f"no such kind: {made['k']}")
    return reader(made)
