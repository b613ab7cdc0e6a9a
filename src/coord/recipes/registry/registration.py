"""An instance that this process has registered."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from coord.errors import CoordError, NotHeld
from coord.recipes.registry.health import Verdict
from coord.runtime import finish
from coord.store.value_limits import to_value

if TYPE_CHECKING:
    from collections.abc import Mapping

    from coord.coordination import Coordination
    from coord.recipes.presence import Presence
    from coord.recipes.registry.health import Checker
    from coord.recipes.registry.instance import Health, Record
    from coord.signals import OneShot

_STOP_WITHIN_S = 60.0


class Registration:
    """A registered instance, until it is deregistered. Made by ``registry.register()``; for any loop and thread.

    Its entry is put again when it was deleted or its session has ended, so it is no proof of anything exclusive.
    """

    def __init__(
        self,
        home: Coordination,
        presence: Presence,
        record: Record,
        checker: Checker | None,
    ) -> None:
        self._home = home
        self._presence = presence
        self._record = record
        self._checker = checker
        self._is_removed_when_failing = checker is None or checker.check.policy == "remove"
        self._checking: asyncio.Task[object] | None = None
        self._is_said = True
        self.key: bytes = presence.key
        """The key in the store."""
        self.id: str = record.id
        """The id of the instance within its service."""

    @override
    def __repr__(self) -> str:
        """Show the key and its state."""
        state = "listed" if self.is_listed else "not listed"
        return f"<coord.Registration {self._presence.text!r}: {state}>"

    @property
    def addr(self) -> str:
        """Where the instance listens."""
        return self._record.addr

    @property
    def token(self) -> int:
        """Names the present incarnation of the registration, the last one while it is not listed; it rises."""
        return self._presence.token

    @property
    def health(self) -> Health:
        """``serving``, ``failing`` or ``draining``."""
        return self._record.health

    @property
    def is_listed(self) -> bool:
        """Whether it is in the store, as far as this process knows."""
        return self._presence.is_shown

    @property
    def lost(self) -> OneShot:
        """Fires once when it is gone for good without our doing: somebody else has the id now."""
        return self._presence.lost

    def begin(self) -> None:
        """Begin to check the health. On the runtime's loop."""
        if self._checker is not None:
            self._checking = self._home.background(self._check(self._checker), name="health")

    async def _check(self, checker: Checker) -> None:
        verdict = Verdict(checker.check)
        rand, period = self._home.env.rand, checker.check.period
        while not self._presence.is_over:
            await asyncio.sleep(rand.uniform(period * 0.9, period * 1.1))
            verdict.note(good=await checker.ask())
            await self._say("serving" if verdict.healthy else "failing")

    async def _say(self, health: Health) -> None:
        """See to it that the entry says so; what could not be written now is, after the next answer."""
        if self._record.health == "draining":
            return
        if self._record.health != health:
            self._record = replace(self._record, health=health)
            self._is_said = False
        if not self._is_said:
            with contextlib.suppress(CoordError):
                await self._write(self._record, None)
                self._is_said = True

    async def _write(self, record: Record, timeout: float | None) -> None:
        hidden = record.health == "failing" and self._is_removed_when_failing
        await self._presence.show(None if hidden else record.encode(), timeout=timeout)

    async def update(
        self,
        *,
        weight: int | None = None,
        zone: str | None = None,
        version: str | None = None,
        tags: tuple[str, ...] | None = None,
        shard: str | None = None,
        endpoints: Mapping[str, str] | None = None,
        metadata: Mapping[str, Any] | None = None,
        timeout: float | None = None,
    ) -> None:
        """Change what the entry says; None leaves a field as it is.

        Written when it is listed again, if it is not now.
        Raises :class:`coord.NotHeld` when it was deregistered or lost, :class:`coord.InvalidArgument`,
        :class:`coord.Unavailable` and :class:`coord.CoordTimeout`, after which the change stays wanted.
        """
        given: dict[str, Any] = {
            "weight": weight,
            "zone": zone,
            "version": version,
            "tags": tags,
            "shard": shard,
            "endpoints": endpoints,
            "metadata": metadata,
        }
        record = replace(
            self._record, **{name: value for name, value in given.items() if value is not None}
        )
        record.check()
        to_value(record.encode(), "the entry of an instance", self._home.txn.max_value_bytes)
        await self._home.run(self._change(record, timeout))

    async def _change(self, record: Record, timeout: float | None) -> None:
        # The health may have turned while this was crossing over.
        self._record = replace(record, health=self._record.health)
        await self._write(self._record, timeout)

    async def drain(self, seconds: float) -> bool:
        """Say that no new calls should come, wait ``seconds``, and deregister; as :meth:`deregister`.

        Views leave out a draining instance. A cancelled call deregisters at once.
        """
        try:
            with contextlib.suppress(CoordError):  # then it goes without having said so
                await self._home.run(self._drain())
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            await finish(self.deregister(), within=_STOP_WITHIN_S)
            raise
        return await self.deregister()

    async def _drain(self) -> None:
        if self._presence.is_over:
            raise NotHeld(self._presence.text)
        was_hidden = self._record.health == "failing" and self._is_removed_when_failing
        self._record = replace(self._record, health="draining")
        if not was_hidden:
            await self._write(self._record, None)

    async def deregister(self) -> bool:
        """Remove the entry; False if it was lost before. A second call returns at once.

        Waits until the store has confirmed, or the lease has ended. Cancelling the caller does not stop it.
        """
        return await self._home.run(self._end())

    async def _end(self) -> bool:
        if self._checking is not None:
            self._checking.cancel()
        return await self._presence.leave()

    def discard(self) -> None:
        """Deregister in the background: nobody is left to use it. On the runtime's loop."""
        self._home.background(self._end(), name="discard")
