"""An instance of a service, and how its entry is written.

The value is what Go's ``naming/endpoints`` writes, ``{"Op":0,"Addr":...,"Metadata":...}``: its resolvers dial our
instances and ours pick theirs. What is ours stands inside ``Metadata``, beside the application's own keys.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, cast

from coord.errors import DecodeError, InvalidArgument
from coord.names import as_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from coord.codec.values import Entry

Health = Literal["serving", "failing", "draining"]

_HEALTHS: dict[str, Health] = {
    "serving": "serving",
    "failing": "failing",
    "draining": "draining",
}
_MAX_WEIGHT = 1_000_000
OWN_FIELDS = frozenset(
    {
        "id", "nonce", "weight", "zone", "version", "tags", "health", "shard", "endpoints", "since",
    }
)  # fmt: skip
"""Keys of ``Metadata`` that are ours."""
_to_json = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What an instance says of itself: the value of its key."""

    addr: str
    id: str = ""
    nonce: str = ""
    weight: int = 1
    zone: str = ""
    version: str = ""
    tags: tuple[str, ...] = ()
    health: Health = "serving"
    shard: str = ""
    endpoints: Mapping[str, str] = field(default_factory=dict[str, str])
    since: float = 0.0
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def check(self) -> None:
        """Raise :class:`InvalidArgument` for what must not be written."""
        if not self.addr:
            raise InvalidArgument("addr must not be empty")
        if not self.id or "/" in self.id or "\0" in self.id:
            raise InvalidArgument(
                f"an instance's id must have neither '/' nor NUL, unlike {self.id!r}: give id="
            )
        if not 0 <= self.weight <= _MAX_WEIGHT:
            raise InvalidArgument(f"weight must be 0 to {_MAX_WEIGHT}, not {self.weight}")
        if reserved := sorted(OWN_FIELDS & set(self.metadata)):
            raise InvalidArgument(f"metadata must not have the keys {', '.join(reserved)}")

    def encode(self) -> bytes:
        """Return the value. Raises :class:`InvalidArgument` for metadata that is no JSON."""
        ours: dict[str, object] = {
            "id": self.id,
            "nonce": self.nonce,
            "weight": self.weight,
            "zone": self.zone,
            "version": self.version,
            "tags": list(self.tags),
            "health": self.health,
            "shard": self.shard,
            "endpoints": dict(self.endpoints),
            "since": round(self.since, 3),
        }
        filled = {key: value for key, value in ours.items() if value or key == "weight"}
        value = {"Op": 0, "Addr": self.addr, "Metadata": filled | dict(self.metadata)}
        try:
            return _to_json(value).encode()
        except (TypeError, ValueError) as error:
            raise InvalidArgument(f"cannot write this metadata as JSON: {error}") from error


class RecordCodec:
    """Reads values of ours and of Go's; for caches."""

    type_name: str = "instance"

    def encode(self, value: Record, /) -> bytes:
        """Return the value of a key."""
        return value.encode()

    def decode(self, data: bytes, /) -> Record:
        """Return what the value says. Raises :class:`DecodeError`."""
        try:
            found: object = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise DecodeError(self.type_name, str(error)) from error
        if not isinstance(found, dict):
            raise DecodeError(self.type_name, "it is no JSON object")
        value = cast("dict[str, object]", found)
        addr = value.get("Addr")
        if not isinstance(addr, str) or not addr:
            raise DecodeError(self.type_name, "it has no Addr")
        metadata = value.get("Metadata")
        if isinstance(metadata, dict):
            return _record(addr, cast("dict[str, Any]", metadata))
        # Go's clients may attach anything.
        return Record(addr=addr, metadata={} if metadata is None else {"value": metadata})


def _record(addr: str, metadata: dict[str, Any]) -> Record:
    """Take from ``metadata`` what is ours; of another type than ours it is the application's."""
    rest = dict(metadata)

    def take(name: str, kind: type | tuple[type, ...], missing: Any) -> Any:  # noqa: ANN401 - JSON
        value = rest.get(name, missing)
        if not isinstance(value, kind) or isinstance(value, bool):
            return missing
        rest.pop(name, None)
        return value

    weight: int = take("weight", int, 1)
    health: str = take("health", str, "serving")
    tags: list[object] = take("tags", list, [])
    endpoints: dict[str, object] = take("endpoints", dict, {})
    return Record(
        addr=addr,
        id=take("id", str, ""),
        nonce=take("nonce", str, ""),
        weight=min(max(weight, 0), _MAX_WEIGHT),
        zone=take("zone", str, ""),
        version=take("version", str, ""),
        tags=tuple([str(tag) for tag in tags]),
        health=_HEALTHS.get(health, "serving"),
        shard=take("shard", str, ""),
        endpoints={name: str(where) for name, where in endpoints.items()},
        since=float(take("since", (int, float), 0.0)),
        metadata=rest,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One instance of a service, as its entry tells.

    ``id`` is unique within the service, ``token`` names this registration of it: a later one has a higher token.
    ``weight`` counts for strategies that weigh; ``health`` is ``serving``, ``failing`` or ``draining``.
    ``endpoints`` are further addresses by name; ``metadata`` is what else the application has written.
    ``since`` is when it was registered, by the clock of its machine, in seconds since the epoch.
    """

    key: bytes
    id: str
    addr: str
    token: int
    revision: int
    lease_id: int
    weight: int = 1
    zone: str = ""
    version: str = ""
    tags: tuple[str, ...] = ()
    health: Health = "serving"
    shard: str = ""
    endpoints: Mapping[str, str] = field(default_factory=dict[str, str], hash=False)
    since: float = 0.0
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any], hash=False)

    @classmethod
    def of(cls, prefix: bytes, entry: Entry[Record]) -> Instance:
        """Convert an entry below ``prefix``."""
        record = entry.value
        return cls(
            key=entry.key,
            id=as_text(entry.key[len(prefix) :]),
            addr=record.addr,
            token=entry.create_revision,
            revision=entry.mod_revision,
            lease_id=entry.lease,
            weight=record.weight,
            zone=record.zone,
            version=record.version,
            tags=record.tags,
            health=record.health,
            shard=record.shard,
            endpoints=record.endpoints,
            since=record.since,
            metadata=record.metadata,
        )
