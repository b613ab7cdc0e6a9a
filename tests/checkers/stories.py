"""Histories for the checkers' tests: told by hand, or made by a model that does everything right."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from google.protobuf.message import Message

from coord.testing.check.events import event_of
from coord.testing.check.reference import execute
from coord.testing.history import (
    Call,
    LogEntry,
    Record,
    Return,
    SeenEvent,
    Status,
    WatchEnded,
    WatchOpened,
    WatchResponded,
    value_text,
)
from coord.testing.model import Change, Model, Version
from coord.wire import kv_pb2, rpc_pb2

S = 1_000_000_000
"""A second."""


def header(revision: int) -> rpc_pb2.ResponseHeader:
    return rpc_pb2.ResponseHeader(revision=revision)


def kv(key: bytes, value: bytes, mod: int, *, create: int = 0, version: int = 1, lease: int = 0) -> kv_pb2.KeyValue:  # fmt: skip
    return kv_pb2.KeyValue(
        key=key, value=value, create_revision=create or mod, mod_revision=mod, version=version, lease=lease,
    )  # fmt: skip


class Story:
    """Calls by hand. Times are given as they should be; ids count up."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self._id = 0

    def tell(
        self,
        op: str,
        request: Message,
        at: tuple[int, int],
        *,
        status: Status = "ok",
        response: Message | None = None,
        client: str = "",
        error: str = "",
        changed: bool = False,
    ) -> int:
        """A call from the first time to the second; without a client's name it is one of its own."""
        self._id += 1
        number, (begin, end) = self._id, at
        name = client or f"c{number}"
        self.records.append(
            Call(id=number, client=name, ts=begin, op=op, request=request.SerializeToString())
        )
        revision = 0 if response is None else getattr(response, "header", header(0)).revision
        self.records.append(
            Return(
                id=number,
                ts=end,
                status=status,
                revision=revision,
                changed=changed,
                error=error,
                response=b"" if response is None else response.SerializeToString(),
            )
        )
        return number

    def put(
        self,
        key: bytes,
        value: bytes,
        revision: int,
        at: tuple[int, int],
        *,
        lease: int = 0,
        status: Status = "ok",
        client: str = "",
        error: str = "",
    ) -> int:
        request = rpc_pb2.PutRequest(key=key, value=value, lease=lease)
        response = rpc_pb2.PutResponse(header=header(revision)) if status == "ok" else None
        return self.tell(
            "Put", request, at, status=status, response=response, client=client, error=error
        )

    def get(
        self,
        key: bytes,
        found: kv_pb2.KeyValue | None,
        revision: int,
        at: tuple[int, int],
        *,
        client: str = "",
        serializable: bool = False,
        past: int = 0,
    ) -> int:
        request = rpc_pb2.RangeRequest(key=key, serializable=serializable, revision=past)
        kvs = [] if found is None else [found]
        response = rpc_pb2.RangeResponse(header=header(revision), kvs=kvs, count=len(kvs))
        return self.tell("Range", request, at, response=response, client=client)

    def delete(
        self, key: bytes, deleted: int, revision: int, at: tuple[int, int], *, status: Status = "ok"
    ) -> int:
        request = rpc_pb2.DeleteRangeRequest(key=key)
        response = rpc_pb2.DeleteRangeResponse(header=header(revision), deleted=deleted)
        return self.tell(
            "DeleteRange", request, at, status=status, response=response if status == "ok" else None
        )

    def swap(
        self,
        key: bytes,
        mod: int,
        value: bytes,
        revision: int,
        at: tuple[int, int],
        *,
        succeeded: bool = True,
        status: Status = "ok",
    ) -> int:
        """Put if the key's mod revision is as given."""
        request = rpc_pb2.TxnRequest(
            compare=[
                rpc_pb2.Compare(
                    key=key, target=rpc_pb2.Compare.MOD, result=rpc_pb2.Compare.EQUAL, mod_revision=mod
                )
            ],
            success=[rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=key, value=value))],
        )  # fmt: skip
        response = rpc_pb2.TxnResponse(header=header(revision), succeeded=succeeded)
        if succeeded:
            response.responses.add().response_put.header.revision = revision
        return self.tell(
            "Txn", request, at, status=status, response=response if status == "ok" else None
        )

    def witness(self, *events: SeenEvent, reached: int = 0, at: int = 0) -> None:
        """A watch of everything that has seen these events."""
        self.records += witness(events, reached=reached, at=at)


def seen(pair: kv_pb2.KeyValue) -> SeenEvent:
    """The event of a put."""
    now = Version(pair.value, pair.create_revision, pair.mod_revision, pair.version, pair.lease)
    return event_of(Change(pair.mod_revision, pair.key, now, None))


def gone(key: bytes, revision: int) -> SeenEvent:
    """The event of a delete."""
    return event_of(Change(revision, key, None, None))


def told(change: Change) -> SeenEvent:
    """A change as watches record it."""
    now = change.now
    if now is not None:
        now = now._replace(value=value_text(now.value).encode())
    return event_of(change._replace(now=now))


def witness(events: Sequence[SeenEvent], *, reached: int = 0, at: int = 0) -> list[Record]:
    records: list[Record] = [
        WatchOpened(watcher="all", ts=at, key=b"\0", end=b"\0", start=1),
        WatchResponded(watcher="all", ts=at, revision=0, created=True),
    ]
    revisions = sorted({event.pair.mod_revision for event in events})
    for revision in revisions:
        group = tuple(event for event in events if event.pair.mod_revision == revision)
        records.append(WatchResponded(watcher="all", ts=at, revision=revision, events=group))
    last = reached or max(revisions, default=1)
    records.append(WatchEnded(watcher="all", ts=at, reached=last))
    return records


class Simulated:
    """Clients on a model: each operation takes effect at one moment between its call and its return.

    With ``unknown`` as the share of calls whose answer is lost, half of them without an effect.
    """

    def __init__(
        self,
        seed: int,
        *,
        clients: int = 8,
        operations: int = 400,
        keys: int = 6,
        unknown: float = 0.0,
    ) -> None:
        self.rand = random.Random(seed)
        self.model = Model(min_ttl=1)
        self.log: list[LogEntry] = []
        self.keys = [b"k%02d" % n for n in range(keys)]
        self._unknown = unknown
        self._values = 0
        self._records: list[tuple[int, Record]] = []
        self._id = 0
        points: list[tuple[int, int, int, str]] = []
        for client in range(clients):
            now = self.rand.randrange(10)
            for _ in range(operations // clients):
                begin = now + self.rand.randrange(1, 20)
                point = begin + self.rand.randrange(1, 60)
                now = point + self.rand.randrange(1, 60)
                points.append((point, begin, now, f"c{client}"))
        for _, begin, end, name in sorted(points):
            self._do(begin, end, name)

    @property
    def calls(self) -> list[Record]:
        """What the clients recorded."""
        return [record for _, record in sorted(self._records, key=lambda each: each[0])]

    @property
    def records(self) -> list[Record]:
        """The same, and a witness."""
        return [*self.calls, *witness([told(change) for change in self.model.changes])]

    @property
    def logged(self) -> list[Record]:
        """The same, and the log."""
        return [*self.calls, *self.log]

    def _do(self, begin: int, end: int, client: str) -> None:
        op, request = self._request()
        self._id += 1
        data = request.SerializeToString()
        self._records.append(
            (begin, Call(id=self._id, client=client, ts=begin, op=op, request=data))
        )
        is_unknown = op != "Range" and self.rand.random() < self._unknown
        if is_unknown and self.rand.random() < 0.5:
            self._records.append((end, Return(id=self._id, ts=end, status="info")))
            return
        before = self.model.revision
        response = execute(self.model, op, request)
        changed = self.model.revision > before
        if changed:
            self.log.append(LogEntry(index=len(self.log) + 1, term=1, op=op, request=data))
        ret = Return(
            id=self._id,
            ts=end,
            status="ok",
            revision=self.model.revision,
            changed=changed,
            response=response.SerializeToString(),
        )
        if is_unknown:
            ret = Return(id=self._id, ts=end, status="info")
        self._records.append((end, ret))

    def _value(self) -> bytes:
        self._values += 1
        return b"v%d" % self._values + b"y" * (self.rand.random() < 0.1) * 100

    def _request(self) -> tuple[str, Any]:
        rand, key = self.rand, self.rand.choice(self.keys)
        dice = rand.random()
        if dice < 0.35:
            return "Put", rpc_pb2.PutRequest(key=key, value=self._value(), prev_kv=dice < 0.1)
        if dice < 0.65:
            return "Range", rpc_pb2.RangeRequest(key=key)
        if dice < 0.75:
            return "DeleteRange", rpc_pb2.DeleteRangeRequest(key=key, prev_kv=dice < 0.7)
        present = self.model.kv.get(key)
        right = rand.random() < 0.6
        mod = present.mod if right and present else rand.randrange(self.model.revision + 1)
        compare = rpc_pb2.Compare(key=key, target=rpc_pb2.Compare.MOD, mod_revision=mod)
        put = rpc_pb2.PutRequest(key=key, value=self._value())
        return "Txn", rpc_pb2.TxnRequest(
            compare=[compare],
            success=[rpc_pb2.RequestOp(request_put=put)],
            failure=[rpc_pb2.RequestOp(request_range=rpc_pb2.RangeRequest(key=key))],
        )


Edit = Callable[[Return], Return]


def with_return(
    records: Sequence[Record], chosen: Callable[[Call, Return], bool], edit: Edit
) -> list[Record]:
    """Change the first return that is chosen; there must be one."""
    calls = {record.id: record for record in records if isinstance(record, Call)}
    changed = list(records)
    for place, record in enumerate(records):
        if isinstance(record, Return) and chosen(calls[record.id], record):
            changed[place] = edit(record)
            return changed
    raise LookupError("no such return")


def edited(kind: type[Any], edit: Callable[[Any], None]) -> Edit:
    """An edit of a return's response; its revision follows."""

    def change(record: Return) -> Return:
        response = kind.FromString(record.response)
        edit(response)
        return replace(
            record, response=response.SerializeToString(), revision=response.header.revision
        )

    return change
