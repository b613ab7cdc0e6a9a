"""The keys of a work queue, and what stands in them."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from coord.errors import InvalidArgument
from coord.recipes.queues.prioritised import check_priority

if TYPE_CHECKING:
    from collections.abc import Mapping

    from coord.store.values import KeyValue

_to_json = json.JSONEncoder(separators=(",", ":")).encode
_PRIORITY_DIGITS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkReceipt:
    """What became of a put: the item's id and the revision; ``duplicate``: it was there, or done, already."""

    id: str
    revision: int
    duplicate: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """An item that failed too often: how often, and the last reason that a consumer gave."""

    id: str
    value: bytes
    attempts: int
    last_error: str
    revision: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkStats:
    """How many items are where, all at one revision.

    ``items`` are all that are neither done nor dead: ``ready``, ``claimed``, or ``delayed`` (of which some may be due).
    """

    items: int
    ready: int
    claimed: int
    delayed: int
    dead: int
    consumers: int
    revision: int


@dataclass(frozen=True, slots=True)
class Attempts:
    """How often an item was claimed, and why the last one failed."""

    n: int = 0
    last_error: str = ""

    def encode(self) -> bytes:
        """Return it as the value of a key."""
        return _to_json({"n": self.n, "last_error": self.last_error}).encode()

    @classmethod
    def decode(cls, value: bytes) -> Attempts:
        """Read the value of a key; what cannot be read counts as none."""
        found = parse(value)
        n, error = found.get("n"), found.get("last_error")
        return cls(n if isinstance(n, int) else 0, error if isinstance(error, str) else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Conf:
    """What all consumers of one queue must agree on."""

    max_attempts: int
    claim: str
    visibility: int
    dedup_window: float

    def fields(self) -> dict[str, object]:
        """Return the settings by name."""
        return {
            "max_attempts": self.max_attempts,
            "claim": self.claim,
            "visibility": self.visibility,
            "dedup_window": self.dedup_window,
        }

    def encode(self) -> bytes:
        """Return it as the value of a key."""
        return _to_json({"v": 1, **self.fields()}).encode()


class Layout:
    """The keys of one work queue."""

    def __init__(self, name: bytes) -> None:
        self.prefix: bytes = name + b"/"
        self.items: bytes = self.prefix + b"items/"
        self.claims: bytes = self.prefix + b"claims/"
        self.attempts: bytes = self.prefix + b"attempts/"
        self.delay: bytes = self.prefix + b"delay/"
        self.dead: bytes = self.prefix + b"dead/"
        self.done: bytes = self.prefix + b"done/"
        self.consumers: bytes = self.prefix + b"consumers/"
        self.conf: bytes = self.prefix + b"conf"

    def id_in(self, key: bytes) -> bytes | None:
        """Return the id of the item that a key says something about which decides whether it may be claimed."""
        for part in (self.items, self.claims, self.attempts, self.delay):
            if key.startswith(part):
                return key[len(part) :]
        return None


def make_id(priority: int, unique: bytes) -> bytes:
    """Return an item's id. Raises :class:`BadPriority`."""
    return b"%05d-%s" % (check_priority(priority), unique)


def check_dedup_id(dedup_id: str) -> bytes:
    """Return a caller's id as bytes. Raises :class:`InvalidArgument`."""
    if not dedup_id or "\0" in dedup_id:
        raise InvalidArgument("dedup_id must not be empty, nor contain a NUL")
    return dedup_id.encode(errors="surrogateescape")


def priority_of(item_id: bytes) -> int:
    """Return the priority in an id; what has none is taken last."""
    digits = item_id[:_PRIORITY_DIGITS]
    return int(digits) if digits.isdigit() else 10**_PRIORITY_DIGITS


def text_of(item_id: bytes) -> str:
    """Return an id as callers see it."""
    return item_id.decode(errors="surrogateescape")


def raw_id(item_id: str) -> bytes:
    """Return an id as the store has it. Raises :class:`InvalidArgument`."""
    if not item_id:
        raise InvalidArgument("an item's id is not empty")
    return item_id.encode(errors="surrogateescape")


def tombstone(token: int) -> bytes:
    """Return what says by which claim an item was done."""
    return _to_json({"token": token}).encode()


def is_tombstone_of(value: bytes, token: int) -> bool:
    """Whether the claim with ``token`` was acknowledged."""
    return parse(value).get("token") == token


def envelope(value: bytes, attempts: Attempts) -> bytes:
    """Return what is kept of a dead item."""
    return _to_json(
        {
            "value": base64.b64encode(value).decode(),
            "attempts": attempts.n,
            "last_error": attempts.last_error,
        }
    ).encode()


def dead_letter(kv: KeyValue, prefix: bytes) -> DeadLetter:
    """Read what is kept of a dead item."""
    found = parse(kv.value)
    value, attempts, error = found.get("value"), found.get("attempts"), found.get("last_error")
    try:
        payload = base64.b64decode(value, validate=True) if isinstance(value, str) else b""
    except binascii.Error:
        payload = b""
    return DeadLetter(
        id=text_of(kv.key[len(prefix) :]),
        value=payload,
        attempts=attempts if isinstance(attempts, int) else 0,
        last_error=error if isinstance(error, str) else "",
        revision=kv.mod_revision,
    )


def parse(value: bytes) -> Mapping[str, object]:
    """Read a JSON object; anybody may have written the value."""
    try:
        found: object = json.loads(value)
    except (ValueError, RecursionError):
        return {}
    return cast("Mapping[str, object]", found) if isinstance(found, dict) else {}
