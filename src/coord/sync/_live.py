"""The twin of the part of a client that makes live configuration, and topics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from coord import client
from coord.client.live import ABSENT
from coord.sync._portal import Twin
from coord.sync.config import Config
from coord.sync.topic import Topic

if TYPE_CHECKING:
    from collections.abc import Callable

    from coord.codec import Codec

T = TypeVar("T")


class LiveCalls(Twin[client.Client]):
    """Configuration and topics of a :class:`coord.sync.Client`."""

    __slots__ = ()

    def config(
        self,
        name: str | bytes,
        model: type[T] | Codec[T],
        *,
        default: T = ABSENT,
        validate: Callable[[T], object] | None = None,
        tree: bool = False,
        history: int = 20,
        snapshot: str | None = None,
        instance: str | None = None,
        timeout: float | None = None,
    ) -> Config[T]:
        """Read the configuration called ``name`` and follow it; see :meth:`coord.Client.config`."""
        options: dict[str, Any] = {
            "default": default,
            "validate": validate,
            "tree": tree,
            "history": history,
            "snapshot": snapshot,
            "instance": instance,
            "timeout": timeout,
        }
        return Config(self._portal, self._portal.call(self._async.config(name, model, **options)))

    def topic(self, name: str | bytes, *, retention: float = 3600) -> Topic:
        """Return the topic called ``name``; see :meth:`coord.Client.topic`."""
        return Topic(self._portal, self._async.topic(name, retention=retention))
