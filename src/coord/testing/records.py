"""What a history is made of: one class per kind of line.

``ts`` is nanoseconds of one clock, the same for all records of a history. Requests and responses are
the wire messages; texts of keys and values are made by ``coord.testing.lines``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

Status = Literal["ok", "fail", "info"]
SessionPhase = Literal["open", "renewed", "expired", "closed"]
TenurePhase = Literal["call", "won", "failed", "lost", "leave", "left", "write", "seen"]
TenureKind = Literal["lock", "elect"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Meta:
    """About the whole run: what makes it again, and what it ran on (``sim``, ``real``, ``etcd``)."""

    backend: str
    seed: int = 0
    options: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A request leaves. ``request`` is the wire message of ``op``, the method's name.

    ``endpoint`` names the member that was asked, where that is known.
    """

    id: int
    client: str
    ts: int
    op: str
    request: bytes
    endpoint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Return:
    """Its outcome: ``ok`` (answered), ``fail`` (certainly not done) or ``info`` (nobody knows).

    ``revision`` is the answer's, 0 if it has none; ``changed`` tells whether the store is changed by it;
    ``response`` is the wire message of the answer, empty if it was not recorded.
    """

    id: int
    ts: int
    status: Status
    revision: int = 0
    changed: bool = False
    error: str = ""
    response: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A key-value pair, its key and its value as text (``key_text``, ``value_text``)."""

    key: str
    value: str
    create_revision: int
    mod_revision: int
    version: int
    lease: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenEvent:
    """An event as it was delivered."""

    is_delete: bool
    pair: Pair
    previous: Pair | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchOpened:
    """A creation leaves; keys as on the wire, ``start`` 0 means from now on."""

    watcher: str
    ts: int
    key: bytes
    end: bytes = b""
    start: int = 0
    prev_kv: bool = False
    no_puts: bool = False
    no_deletes: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchResponded:
    """A response arrived: the creation's answer, events, or progress."""

    watcher: str
    ts: int
    revision: int
    created: bool = False
    progress: bool = False
    fragment: bool = False
    events: tuple[SeenEvent, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchEnded:
    """Nothing more comes. ``compact_revision`` if the server ended it for lack of history.

    ``reached``: everything up to that revision should have come; 0 if it was left before.
    """

    watcher: str
    ts: int
    compact_revision: int = 0
    reached: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionEvent:
    """A session was opened, renewed, closed, or expired by its own clock.

    A confirmation carries the ``ttl`` in seconds that the store gave, and when its request was ``sent``.
    """

    client: str
    ts: int
    lease: int
    phase: SessionPhase
    ttl: int = 0
    sent: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenure:
    """Something that is held by one at a time: a lock or the leadership of an election.

    ``attempt`` joins the phases of one acquisition: ``call``; then ``won`` or ``failed``; while it is held
    ``write`` (a guarded write or a proclamation succeeded at ``revision``) and ``lost`` (the holder was told);
    ``leave`` when the release is called and ``left`` when it has returned. A stay of one observer is an
    attempt too, all of ``seen``: ``token`` 0 stands for nobody.

    ``until``: when the holder ceases to be sure, by its own clock, as known at that moment; 0 if unknown.
    """

    kind: TenureKind
    attempt: int
    client: str
    name: bytes
    ts: int
    phase: TenurePhase
    token: int = 0
    key: bytes = b""
    lease: int = 0
    until: int = 0
    revision: int = 0
    value: bytes = b""
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A fault begins or ends: its kind (``kill``, ``pause``, ``clock`` ...) and whom it strikes."""

    kind: str
    ts: int
    phase: Literal["begin", "end"]
    on: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LogEntry:
    """An operation of the committed log, read from a member after the run, in the log's order.

    An entry that holds several operations has several of these, with one ``index``.
    """

    index: int
    term: int
    op: str
    request: bytes


Record: TypeAlias = (
    Meta
    | Call
    | Return
    | WatchOpened
    | WatchResponded
    | WatchEnded
    | SessionEvent
    | Tenure
    | Fault
    | LogEntry
)
