"""The twins of topics, subscriptions and messages."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self

from coord.errors import CoordTimeout
from coord.recipes import topic
from coord.recipes.topic.message import Gap
from coord.sync._portal import Twin

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from types import TracebackType

    from coord.recipes.topic.subscription import From
    from coord.store.operations import Op


class Message(Twin[topic.Message]):
    """One message; see :class:`coord.Message`. ``revision`` is its place in the order of the topic."""

    __slots__ = ()

    @property
    def value(self) -> bytes:
        """What was published."""
        return self._async.value

    @property
    def revision(self) -> int:
        """Its place in the order of the topic, fit as a token."""
        return self._async.revision

    @property
    def headers(self) -> Mapping[str, str]:
        """What was published with it."""
        return self._async.headers

    @property
    def key(self) -> bytes:
        """Its key."""
        return self._async.key

    def commit(self, *, also: Iterable[Op] = (), timeout: float | None = None) -> None:
        """Note that this message and all before it are handled, in one transaction with the operations ``also``."""
        self._portal.call(self._async.commit(also=also, timeout=timeout))


class Subscription(Twin[topic.Subscription]):
    """The messages of a topic, in order; see :class:`coord.Subscription`. One thread at a time may read.

    While a thread works on a message nobody saves the cursor: handlers that take longer than the retention see gaps.
    """

    __slots__ = ()

    def __enter__(self) -> Self:
        """Open it."""
        self._portal.call(self._async.__aenter__())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Save the cursor, if there is one, and close."""
        self._portal.call(self._async.__aexit__(kind, error, trace))

    def close(self) -> None:
        """End it, without saving and without waiting. Safe to call twice."""
        self._async.close()

    def __iter__(self) -> Self:
        """Iterate over messages and gaps."""
        return self

    def __next__(self) -> Message | Gap:
        """Wait for the next one."""
        return self.read()

    def read(self, *, timeout: float | None = None) -> Message | Gap:
        """Return the next one. Raises :class:`coord.CoordTimeout` after ``timeout`` seconds without one."""
        item = self._portal.call(self._read(timeout))
        return item if isinstance(item, Gap) else Message(self._portal, item)

    async def _read(self, timeout: float | None) -> topic.Message | Gap:
        scope = asyncio.timeout(timeout)
        try:
            async with scope:
                return await anext(self._async)
        except TimeoutError:
            if not scope.expired():
                raise
            raise CoordTimeout("the subscription", timeout, explain="no message") from None


class Topic(Twin[topic.Topic]):
    """A named, ordered log of messages; see :class:`coord.Topic`. Made by ``client.topic(name)``."""

    __slots__ = ()

    @property
    def name(self) -> bytes:
        """The name; messages are keys below ``name + "/log/"``."""
        return self._async.name

    def publish(
        self,
        value: str | bytes,
        *,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> int:
        """Publish a message, and return its revision: its place in the order."""
        return self._portal.call(self._async.publish(value, headers=headers, timeout=timeout))

    def subscribe(
        self,
        *,
        from_: From = "latest",
        durable: str | None = None,
        save_every: int = 100,
        save_within: float = 1.0,
    ) -> Subscription:
        """Return a subscription, to be opened with ``with``; see :meth:`coord.Topic.subscribe`."""
        made = self._async.subscribe(
            from_=from_, durable=durable, save_every=save_every, save_within=save_within
        )
        return Subscription(self._portal, made)
