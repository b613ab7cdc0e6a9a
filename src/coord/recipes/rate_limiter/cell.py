"""The key of a limiter, as this client knows it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from coord.names import as_text
from coord.recipes.rate_limiter.errors import LimiterMismatch
from coord.recipes.rate_limiter.meter import MICRO, Meter, RateMode, chosen
from coord.store import comparing as compare
from coord.store import operations as op

if TYPE_CHECKING:
    from coord.coordination import Coordination
    from coord.recipes.rate_limiter.meter import Mode
    from coord.store.values import KeyValue


class ModeChanged(Exception):
    """The store has the other mode, and this limiter takes any. Stays within this room."""


class Cell:
    """The key's value and revision, and what this limiter was made with. On the runtime's loop.

    ``patience``: seconds for one request at most, None: the client's ``request_timeout``.
    """

    def __init__(
        self,
        home: Coordination,
        name: bytes,
        wanted: Meter,
        *,
        mode: RateMode,
        batch: int,
        patience: float | None,
    ) -> None:
        self._home = home
        self._core = home.core
        self.name: bytes = name
        self.text: str = as_text(name)
        self.mode: RateMode = mode
        self._batch = batch
        self._patience = patience
        self.wanted: Meter = wanted
        self.meter: Meter = wanted
        self.revision: int = 0
        """Of the key as it is known; 0 while it is not known, or not there."""

    def now_us(self) -> int:
        """Return the wall clock's time."""
        return int(self._home.env.clock.wall() * MICRO)

    def mono(self) -> float:
        """Return the monotonic clock's time."""
        return self._home.env.clock.mono()

    def left(self, deadline: float | None) -> float:
        """Return the seconds for one request that has to end by ``deadline``."""
        limit = self._core.caller.request_timeout
        if self._patience is not None:
            limit = min(limit, self._patience)
        return limit if deadline is None else min(limit, max(0.0, deadline - self.mono()))

    async def know(self, deadline: float | None) -> Mode:
        """Return the mode, reading the key if it is not known. Raises :class:`LimiterMismatch`."""
        if self.revision == 0:
            await self.read(deadline)
        self.match()
        return self.meter.mode

    async def read(self, deadline: float | None) -> None:
        """Read the key."""
        self.learn(await self._core.kv.get(self.name, timeout=self.left(deadline)))

    def learn(self, found: KeyValue | None) -> None:
        """Take note of the key as it was found, unless something newer is known."""
        if found is not None and found.mod_revision < self.revision:
            return
        if found is None:
            self.meter, self.revision = self.wanted, 0
        else:
            meter, revision = Meter.decode(self.name, found.value), found.mod_revision
            self.meter, self.revision = meter, revision

    def match(self) -> None:
        """Raise :class:`LimiterMismatch` unless the store has what we were made with."""
        stored, wanted = self.meter, self.wanted
        if stored.figures == wanted.figures and self.mode in ("auto", stored.mode):
            return
        self.revision = 0  # it may be changed back: look again next time
        raise LimiterMismatch(
            self.name,
            stored=stored.figures,
            given=wanted.figures,
            stored_mode=stored.mode,
            given_mode=self.mode,
        )

    async def write(self, new: Meter, deadline: float | None) -> bool:
        """Replace the value, exactly once, if it is the one we know; else learn the one that is there."""
        marked = await self._core.markers.run(
            (compare.mod_revision(self.name) == self.revision,),
            (op.put(self.name, new.encode()),),
            (op.get(self.name),),
            timeout=self.left(deadline),
        )
        if marked.applied:
            self.meter, self.revision = new, marked.revision
            return True
        items = () if marked.result is None else marked.result.range(0).items
        self.learn(items[0] if items else None)
        return False

    async def write_once(self, new: Meter) -> bool:
        """As :meth:`write`, with one request and no marker: an error means that it may have been written.

        The comparison makes a copy that comes late worthless.
        """
        result = await self._home.txn.run(
            (compare.mod_revision(self.name) == self.revision,),
            (op.put(self.name, new.encode()),),
            (op.get(self.name),),
            timeout=self.left(None),
        )
        if result.succeeded:
            self.meter, self.revision = new, result.revision
            return True
        items = result.range(0).items
        self.learn(items[0] if items else None)
        return False

    def after_change(self, rate: float, burst: float) -> Meter:
        """Return what is to be written for a change of the rate; a key that does not exist begins anew."""
        mode = self.meter.mode if self.mode != "auto" else chosen(rate, self._batch)
        if self.revision == 0:
            return replace(self.meter, rate=rate, burst=burst, mode=mode)
        return self.meter.changed(rate, burst, mode, self.now_us())
