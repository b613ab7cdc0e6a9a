"""What the store returns, as immutable values."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from coord.wire import kv_pb2


def slot_setters(kind: type) -> tuple[Callable[[object, object], None], ...]:
    """Return what sets the fields of a frozen dataclass with slots, in their order.

    Its own constructor goes through ``object.__setattr__`` for each field, which is most of what an event or a key
    costs. For the few places that make values by the thousand, and only for an object that nobody else has seen.
    """
    slots: tuple[str, ...] = vars(kind)["__slots__"]
    return tuple([vars(kind)[name].__set__ for name in slots])


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyValue:
    """One key as of some revision (etcd API: ``mvccpb.KeyValue``).

    ``version`` counts the puts since the key was created, starting at 1.
    ``lease`` is the id of the lease that the key is attached to, 0 for none.
    """

    key: bytes
    value: bytes
    create_revision: int
    mod_revision: int
    version: int
    lease: int = 0

    @classmethod
    def from_wire(cls, kv: kv_pb2.KeyValue, skip: int = 0) -> KeyValue:
        """Convert the wire form, without the first ``skip`` bytes of the key: those of a namespace."""
        made = _new(cls)
        _set_key(made, kv.key[skip:] if skip else kv.key)
        _set_value(made, kv.value)
        _set_create_revision(made, kv.create_revision)
        _set_mod_revision(made, kv.mod_revision)
        _set_version(made, kv.version)
        _set_lease(made, kv.lease)
        return made


_new = object.__new__
(
    _set_key,
    _set_value,
    _set_create_revision,
    _set_mod_revision,
    _set_version,
    _set_lease,
) = slot_setters(KeyValue)


@dataclass(frozen=True, slots=True, kw_only=True)
class PutResult:
    """``revision`` is the revision of the put; ``previous`` the pair before it, if asked for and present."""

    revision: int
    previous: KeyValue | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteResult:
    """``deleted`` keys went; ``previous`` holds them in key order, if asked for."""

    revision: int
    deleted: int
    previous: tuple[KeyValue, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RangeResult:
    """``items`` in the order asked for, ``count`` of all keys in the range, ``more`` if the limit cut some off.

    ``revision`` is the store's current revision, at which the read was made unless an older one was asked for.
    """

    items: tuple[KeyValue, ...]
    count: int
    more: bool
    revision: int


_set_put_revision, _set_put_previous = slot_setters(PutResult)
_set_items, _set_count, _set_more, _set_revision = slot_setters(RangeResult)


def put_result_of(revision: int, previous: KeyValue | None = None) -> PutResult:
    """Make a PutResult, as fast as can be."""
    made = _new(PutResult)
    _set_put_revision(made, revision)
    _set_put_previous(made, previous)
    return made


def range_result_of(
    items: tuple[KeyValue, ...], count: int, revision: int, *, more: bool
) -> RangeResult:
    """Make a RangeResult, as fast as can be."""
    made = _new(RangeResult)
    _set_items(made, items)
    _set_count(made, count)
    _set_more(made, more)
    _set_revision(made, revision)
    return made


class EventType(Enum):
    """What happened to a key."""

    PUT = 0
    DELETE = 1


class WatchFilter(Enum):
    """What a watch leaves out, on the server's side."""

    NO_PUT = "noput"
    NO_DELETE = "nodelete"


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchEvent:
    """One change of one key (etcd API: ``mvccpb.Event``).

    For a delete, ``kv`` carries only the key and, as ``mod_revision``, the revision of the delete.
    """

    type: EventType
    kv: KeyValue
    previous: KeyValue | None = None

    @property
    def key(self) -> bytes:
        """The key that changed."""
        return self.kv.key

    @property
    def value(self) -> bytes:
        """The value that was put; empty for a delete."""
        return self.kv.value

    @property
    def revision(self) -> int:
        """The revision of the change."""
        return self.kv.mod_revision

    @property
    def is_create(self) -> bool:
        """Whether the put created the key."""
        return self.type is EventType.PUT and self.kv.create_revision == self.kv.mod_revision


_set_type, _set_kv, _set_previous = slot_setters(WatchEvent)
_PUT, _DELETE = EventType.PUT, EventType.DELETE


def events_from_wire(
    wire: Iterable[kv_pb2.Event], low: int, *, with_previous: bool, skip: int = 0
) -> list[WatchEvent]:
    """Convert the events at revision ``low`` and later, without ``skip`` bytes of each key. One loop without a call: a watch lives by it."""
    events: list[WatchEvent] = []
    for event in wire:
        kv = event.kv
        revision = kv.mod_revision
        if revision < low:
            continue
        pair = _new(KeyValue)
        _set_key(pair, kv.key[skip:] if skip else kv.key)
        _set_value(pair, kv.value)
        _set_create_revision(pair, kv.create_revision)
        _set_mod_revision(pair, revision)
        _set_version(pair, kv.version)
        _set_lease(pair, kv.lease)
        made = _new(WatchEvent)
        _set_type(made, _DELETE if event.type else _PUT)
        _set_kv(made, pair)
        has_previous = with_previous and event.HasField("prev_kv")
        _set_previous(made, KeyValue.from_wire(event.prev_kv, skip) if has_previous else None)
        events.append(made)
    return events


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchBatch:
    """All events of one or more whole revisions, in order; empty for a progress notification.

    Every matching event up to ``revision`` has been delivered once this batch has.
    With ``resync``, the events are no history but a difference: what has to be done to what was delivered before, to
    make it what the store holds at ``revision``.
    """

    events: tuple[WatchEvent, ...]
    revision: int
    resync: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseInfo:
    """A lease's remaining and granted seconds; ``remaining`` is None when it does not exist."""

    lease_id: int
    remaining: float | None
    granted: int
    keys: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseGrant:
    """A fresh lease: its id, and the TTL in seconds that the server really granted."""

    lease_id: int
    ttl: int
    revision: int

    @property
    def id(self) -> int:
        """As ``lease_id``; fit for ``put(..., lease=lease.id)``."""
        return self.lease_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A member of the cluster."""

    member_id: int
    name: str
    peer_urls: tuple[str, ...]
    client_urls: tuple[str, ...]
    is_learner: bool

    @property
    def is_started(self) -> bool:
        """Whether it has run and told its name; one that was only added has not."""
        return bool(self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberStatus:
    """What one member says of itself (etcd API: Maintenance.Status).

    ``leader`` is 0 when it knows none.
    Servers before etcd 3.6 tell neither ``storage_version`` (empty) nor ``db_quota_bytes`` (0).
    """

    endpoint: str
    member_id: int
    cluster_id: int
    version: str
    db_size_bytes: int
    db_in_use_bytes: int
    leader: int
    raft_term: int
    raft_index: int
    revision: int
    is_learner: bool
    errors: tuple[str, ...] = ()
    raft_applied_index: int = 0
    storage_version: str = ""
    db_quota_bytes: int = 0
