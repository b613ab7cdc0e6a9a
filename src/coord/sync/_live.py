"""The twin of the part of a client that makes live configuration, topics and rate limiters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from coord import client
from coord.client.live import ABSENT
from coord.sync._portal import Twin
from coord.sync.config import Config
from coord.sync.rate_limiter import RateLimiter
from coord.sync.topic import Topic

if TYPE_CHECKING:
    from collections.abc import Callable

    from coord.codec import Codec
    from coord.recipes.rate_limiter import RateMode

T = TypeVar("T")


class LiveCalls(Twin[client.Client]):
    """Configuration, topics and rate limiters of a :class:`coord.sync.Client`."""

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

    def rate_limiter(
        self,
        name: str | bytes,
        rate: float,
        *,
        burst: float | None = None,
        mode: RateMode = "auto",
        batch: int = 1,
        batch_window: float = 1.0,
        weight: float = 1.0,
        ttl: int = 5,
        fallback_rate: float | None = None,
        fair: bool = False,
    ) -> RateLimiter:
        """Return the limiter called ``name``; see :meth:`coord.Client.rate_limiter`."""
        made = self._async.rate_limiter(
            name,
            rate,
            burst=burst,
            mode=mode,
            batch=batch,
            batch_window=batch_window,
            weight=weight,
            ttl=ttl,
            fallback_rate=fallback_rate,
            fair=fair,
        )
        return RateLimiter(self._portal, made)
