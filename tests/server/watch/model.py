"""A store that keeps everything in one list, and a stream that is full when a test says so."""

from __future__ import annotations

from dataclasses import dataclass, field

from coord.wire import rpc_pb2
from coord_server.mvcc.events import DELETE, PUT, Event
from coord_server.mvcc.fields import encode_field, strip
from coord_server.mvcc.hub import Sink


def contains(key: bytes, end: bytes, probe: bytes) -> bool:
    if not end:
        return probe == key
    return key <= probe and (end == b"\x00" or probe < end)


class ListStore:
    """The dumb store: one list of events, read from its start every time."""

    def __init__(self) -> None:
        self.revision = 1
        self.compact_revision = -1
        self.oldest_in_memory = 0
        self.examined = 0
        self.log: list[Event] = []
        self.fields: dict[bytes, tuple[bytes, int, int]] = {}
        self.knows_previous = True

    def write(self, changes: list[tuple[int, bytes, bytes]]) -> list[Event]:
        """Apply (kind, key, value) changes as one revision; deletes of nothing are dropped."""
        made: list[Event] = []
        revision = self.revision + 1
        for kind, key, value in changes:
            old = self.fields.get(key)
            prev = old[0] if old and self.knows_previous else None
            if kind == PUT:
                create, version = (old[1], old[2] + 1) if old else (revision, 1)
                pair = encode_field(key, create, revision, version, value, 0)
                self.fields[key] = (pair, create, version)
                made.append(Event(PUT, key, revision, create, pair, prev))
            elif old:
                del self.fields[key]
                gone = encode_field(key, 0, revision, 0, b"", 0)
                made.append(Event(DELETE, key, revision, 0, gone, prev))
        if made:
            self.revision = revision
            self.log += made
        return made

    def put(self, key: bytes, value: bytes = b"v") -> list[Event]:
        return self.write([(PUT, key, value)])

    def delete(self, *keys: bytes) -> list[Event]:
        return self.write([(DELETE, key, b"") for key in keys])

    def history(
        self,
        key: bytes,
        end: bytes,
        start: int,
        stop: int,
        limit_revisions: int,
        limit_bytes: int,
    ) -> tuple[list[Event], int]:
        assert start >= self.compact_revision
        found: list[Event] = []
        revisions: list[int] = []
        for event in self.log:
            self.examined += 1
            if start <= event.mod_revision <= stop and contains(key, end, event.key):
                if not revisions or revisions[-1] != event.mod_revision:
                    size = sum(len(one.field) for one in found)
                    if len(revisions) == limit_revisions or size >= limit_bytes:
                        return found, event.mod_revision
                    revisions.append(event.mod_revision)
                found.append(event)
        return found, stop + 1

    def value_at(self, key: bytes, revision: int) -> bytes | None:
        value = None
        for event in self.log:
            if event.key == key and event.mod_revision <= revision:
                value = strip(event.field) if event.kind == PUT else None
        return value


@dataclass
class Stream:
    """What a client receives; it takes ``room`` more bytes before it is full."""

    room: int = 1 << 60
    received: list[bytes] = field(default_factory=list[bytes])

    def __post_init__(self) -> None:
        self.sink = Sink(self.deliver)

    def deliver(self, messages: list[bytes]) -> bool:
        assert messages
        self.received += messages
        self.room -= sum(map(len, messages))
        return self.room > 0

    def take(self) -> list[rpc_pb2.WatchResponse]:
        """Return and forget what arrived."""
        taken, self.received = self.received, []
        return [rpc_pb2.WatchResponse.FromString(message) for message in taken]
