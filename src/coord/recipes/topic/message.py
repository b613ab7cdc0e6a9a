"""What a subscriber gets."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol, cast

from coord.errors import CoordError, InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from coord.store.operations import Op
    from coord.store.values import KeyValue

_NO_HEADERS: Mapping[str, str] = MappingProxyType({})


def _no_headers() -> Mapping[str, str]:
    return _NO_HEADERS


class CursorBusy(CoordError):
    """Another consumer has moved this durable subscriber's cursor: there must be one at a time. Nothing was saved."""

    def __init__(self, topic: bytes, subscriber: str) -> None:
        self.topic = topic
        self.subscriber = subscriber
        super().__init__(f"subscriber {subscriber!r} of topic {topic!r} has another consumer")


class Committing(Protocol):
    """What moves a cursor."""

    async def save(self, revision: int, also: tuple[Op, ...], timeout: float | None) -> None:
        """Note that everything up to ``revision`` is handled."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message. ``revision`` is its place in the order of the topic, and fit as a token."""

    value: bytes
    revision: int
    headers: Mapping[str, str] = field(default_factory=_no_headers)
    key: bytes = b""
    subscription: Committing | None = field(default=None, repr=False, compare=False)

    async def commit(self, *, also: Iterable[Op] = (), timeout: float | None = None) -> None:
        """Note that this message and all before it are handled, in one transaction with the operations ``also``.

        With the handler's own effect in ``also``, each message takes effect exactly once.
        Raises :class:`CursorBusy`, and then nothing of it was applied; :class:`coord.InvalidArgument` for a
        subscription that is not durable; errors as of a transaction under an operation marker.
        """
        if self.subscription is None:
            raise InvalidArgument("only a durable subscription keeps a cursor")
        await self.subscription.save(self.revision, tuple(also), timeout)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """Messages after ``start`` and before ``end``, both revisions, may have expired before they could be read.

    It may be a false alarm; there is never a gap without one.
    """

    start: int
    end: int


def encode(value: bytes, headers: Mapping[str, str] | None) -> bytes:
    """Return what stands in the store: the headers as a line of JSON, then the value."""
    given = dict(headers or {})
    if not all(isinstance(text, str) for pair in given.items() for text in pair):
        raise InvalidArgument("headers are texts with names that are texts")
    return json.dumps(given, separators=(",", ":")).encode() + b"\n" + value


def decode(kv: KeyValue, subscription: Committing | None) -> Message:
    """Return the message in ``kv``; what was not written by a topic is a value without headers."""
    head, newline, value = kv.value.partition(b"\n")
    headers: Mapping[str, str] = _NO_HEADERS
    raw = kv.value
    if newline and head.startswith(b"{"):
        try:
            loaded = cast("dict[str, object]", json.loads(head))
        except (ValueError, RecursionError):
            pass
        else:
            headers = MappingProxyType({name: str(text) for name, text in loaded.items()})
            raw = value
    return Message(
        value=raw,
        revision=kv.create_revision,
        headers=headers,
        key=kv.key,
        subscription=subscription,
    )
