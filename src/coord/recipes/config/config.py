"""A configuration as applications hold it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, Self, TypeVar

from coord.errors import CoordTimeout, InvalidArgument
from coord.recipes.config.errors import ConfigInvalid, ConfigUnavailable
from coord.recipes.config.publishing import DocumentPublisher, TreePublisher
from coord.runtime import finish

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from types import TracebackType

    from coord.codec.protocol import Codec
    from coord.coordination import Coordination
    from coord.recipes.atomic import Versioned
    from coord.recipes.config.reader import ConfigState, Reader

T = TypeVar("T")

_PERCENT = 100
_CLOSE_WITHIN_S = 10.0


class Config(Generic[T]):
    """A typed, validated configuration. Made by ``await client.config(name, model)``; for any thread and loop.

    Readers see only documents that were committed and are valid; :attr:`revision` never goes back. While the store
    cannot be reached they keep what they have, and :attr:`stale_for` says for how long that may be old.
    ``async with`` closes it at the end, as does the client.
    """

    def __init__(
        self,
        home: Coordination,
        name: bytes,
        codec: Codec[T],
        reader: Reader[T],
        publisher: DocumentPublisher | TreePublisher,
    ) -> None:
        self._home = home
        self.name: bytes = name
        """The name: the document's key, or without its ``/`` the prefix of the tree."""
        self._codec = codec
        self._reader = reader
        self._publisher = publisher

    async def __aenter__(self) -> Self:
        """Close it at the end of the block."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        await self.close()

    async def close(self) -> None:
        """End following the store. What was read last can still be read. Safe to call twice.

        Runs to its end although the caller is cancelled.
        """

        async def ending() -> None:
            await finish(self._reader.stop(), within=_CLOSE_WITHIN_S)

        await self._home.runtime.run(ending())

    # -- reading ---------------------------------------------------------------------------------------------------

    @property
    def state(self) -> ConfigState[T]:
        """The value, with where it is from and what is wrong, all of one time. Costs nothing."""
        current = self._reader.current
        if current is None:
            raise ConfigUnavailable(self.name, "it was never read")
        return current

    @property
    def value(self) -> T:
        """The last good value."""
        return self.state.value

    @property
    def revision(self) -> int:
        """The revision of the newest change; what follows from the value may carry it, to refuse older ones."""
        return self.state.revision

    @property
    def invalid(self) -> ConfigInvalid | None:
        """What is wrong with the present document, None if it is the one in use."""
        return self.state.invalid

    @property
    def stale_for(self) -> float:
        """Seconds for which changes may be missing; infinite while the store has not been reached."""
        return self._reader.stale_for

    def changes(self, *, jitter: float = 0.0) -> AsyncGenerator[ConfigState[T], None]:
        """Return an iterator over what comes from now on: each new value, and each document that is invalid.

        Who reads slowly gets the newest. ``jitter``: wait up to so many seconds before each, so that a large fleet
        does not react all at once.
        """
        if jitter < 0:
            raise InvalidArgument(f"jitter must be 0 or more seconds, not {jitter}")
        return self._changes(self.state, jitter)

    async def _changes(
        self, seen: ConfigState[T], jitter: float
    ) -> AsyncGenerator[ConfigState[T], None]:
        while True:
            seen = await self._home.run(self._reader.after(seen))
            if jitter:
                await asyncio.sleep(self._home.env.rand.uniform(0, jitter))
                seen = self.state
            yield seen

    async def wait_revision(self, revision: int, *, timeout: float | None = None) -> None:
        """Wait until changes up to ``revision``, such as one of :meth:`publish`, were looked at.

        Raises :class:`coord.CoordTimeout` after ``timeout`` seconds; None waits for as long as it takes.
        """
        await self._home.run(self._reached(revision, timeout))

    async def _reached(self, revision: int, timeout: float | None) -> None:
        try:
            async with asyncio.timeout(timeout):
                await self._reader.reached(revision)
        except TimeoutError:
            explain = f"it is behind revision {revision}"
            raise CoordTimeout("the configuration", timeout, explain=explain) from None

    # -- writing ---------------------------------------------------------------------------------------------------

    async def publish(
        self, value: T, *, expected_revision: int | None = None, timeout: float | None = None
    ) -> int:
        """Replace the configuration, for everybody and at once; return its revision. Ends a canary.

        ``expected_revision``: only if nothing newer than that has been written, :class:`coord.Conflict` otherwise.
        Raises :class:`ConfigInvalid` for a value that does not fit, :class:`coord.PayloadTooLarge`;
        :class:`coord.Unavailable` and :class:`coord.CoordTimeout` when nothing was written;
        :class:`coord.AmbiguousResult` when it stayed unknown, whose ``resolve()`` returns the revision, or None if
        nothing was written and never will be.
        """
        return await self._publisher.publish(self._encode(value), expected_revision, timeout)

    async def rollback(self, revision: int, *, timeout: float | None = None) -> int:
        """Publish again what was written at ``revision``, and return the new revision.

        Raises :class:`ConfigUnavailable` when it is not kept any more, :class:`ConfigInvalid` when it no longer fits
        the model, and as :meth:`publish`.
        """
        publisher = self._document("a rollback")
        raw = await publisher.kept(revision, timeout)
        if raw is None:
            raise ConfigUnavailable(self.name, f"revision {revision} is not in its history")
        self._reader.check(raw, revision=revision)
        return await publisher.publish(raw, None, timeout)

    async def history(self, *, timeout: float | None = None) -> tuple[Versioned[bytes], ...]:
        """Return the documents before the present one as they were written, the newest first."""
        return await self._document("a history").history(timeout)

    async def canary(self, value: T, percent: float, *, timeout: float | None = None) -> int:
        """Let ``percent`` of all instances take ``value``, until the next publication; return the revision.

        Who takes it follows from the instance's name. Raising the percentage of the same value keeps those who have
        it. 0 takes it away from everybody.
        Raises as :meth:`publish`, and :class:`coord.InvalidArgument` when the codec does not write JSON.
        """
        publisher = self._document("a canary")
        if not 0 <= percent <= _PERCENT:
            raise InvalidArgument(f"percent must be from 0 to {_PERCENT}, not {percent}")
        return await publisher.canary(self._encode(value), percent, timeout)

    def _document(self, what: str) -> DocumentPublisher:
        if isinstance(self._publisher, TreePublisher):
            raise InvalidArgument(f"{what} needs a configuration that is one document, not a tree")
        return self._publisher

    def _encode(self, value: T) -> bytes:
        """Return the document for ``value``. Raises :class:`ConfigInvalid` unless readers would take it."""
        raw = self._codec.encode(value)
        self._reader.check(raw)
        return raw
