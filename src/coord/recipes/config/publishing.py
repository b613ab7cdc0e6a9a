"""Writing a configuration, as bytes. On any loop."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from coord.errors import Compacted, CoordError, CoordTimeout, FutureRevision, InvalidArgument
from coord.recipes.atomic import Conflict, Versioned
from coord.recipes.config.errors import ConfigInvalid
from coord.recipes.config.sources import canary_of, encode_canary, flatten
from coord.runtime import Backoff
from coord.store import comparing as compare
from coord.store import operations as op
from coord.store.caller import Repeat
from coord.store.keys import prefix_end
from coord.store.kv import range_request
from coord.store.value_limits import to_value

if TYPE_CHECKING:
    from collections.abc import Callable

    from coord.core import Core
    from coord.store.comparing import Compare
    from coord.store.marker import Marked
    from coord.store.operations import Op

_PAUSE_FIRST_S, _PAUSE_MAX_S = 0.005, 0.5
# Old documents are deleted a few at a time, so that most publications are one request.
_HISTORY_SLACK = 8
_REVISION_DIGITS = 20


def _revision_of(known: tuple[bytes, int]) -> int:
    return known[1]


class _Publisher:
    """What both kinds share: trying until nobody else came first."""

    def __init__(self, core: Core, name: bytes) -> None:
        self._core = core
        self._name = name

    def _limited(self, raw: bytes) -> bytes:
        what = f"the configuration {self._name!r}"
        return to_value(raw, what, self._core.txn.max_value_bytes)

    def _expect(self, expected: int | None, actual: int) -> None:
        if expected is not None and actual > expected:
            raise Conflict(self._name, expected=expected, actual=actual)


class _Clocked:
    """The time that one publication has, and its pauses."""

    def __init__(self, core: Core, timeout: float | None) -> None:
        self._clock = core.env.clock
        self._limit = core.caller.request_timeout if timeout is None else timeout
        self._deadline = self._clock.mono() + self._limit
        self._backoff = Backoff(core.env.rand, _PAUSE_FIRST_S, _PAUSE_MAX_S, spread=1)

    @property
    def left(self) -> float:
        """Seconds. Raises :class:`CoordTimeout` when there are none."""
        left = self._deadline - self._clock.mono()
        if left <= 0:
            explain = "others came first"
            raise CoordTimeout("publishing the configuration", self._limit, explain=explain)
        return left

    async def pause(self) -> None:
        """Give way to somebody else."""
        await self._backoff.pause(self.left)


class DocumentPublisher(_Publisher):
    """Writes one key, the documents before it, and the canary.

    ``known`` tells what a reader knows of the key, as value and mod revision (0: missing); None if nothing.
    """

    def __init__(
        self,
        core: Core,
        name: bytes,
        *,
        history: int,
        known: Callable[[], tuple[bytes, int] | None],
    ) -> None:
        super().__init__(core, name)
        self._history = history
        self._known = known
        self._written: tuple[bytes, int] | None = None
        self._old = name + b"/history/"
        self._canary = name + b"/canary"

    async def publish(self, raw: bytes, expected: int | None, timeout: float | None) -> int:
        """Write the document and keep the one before it; return the revision."""
        self._limited(raw)
        time = _Clocked(self._core, timeout)
        known: list[tuple[bytes, int]] = [
            each for each in (self._known(), self._written) if each is not None
        ]
        # A reader may be a little behind what was written here.
        value, seen = max(known, key=_revision_of) if known else await self._read(time.left)
        newest = seen
        while True:
            self._expect(expected, newest)
            marked = await self._attempt(raw, value, seen, expected, time.left)
            if marked.applied:
                self._written = (raw, marked.revision)
                await self._prune(marked)
                return marked.revision
            if marked.result is not None:
                present, canary = marked.result.range(0).items, marked.result.range(1).items
                value, seen = (present[0].value, present[0].mod_revision) if present else (b"", 0)
                newest = max(seen, canary[0].mod_revision if canary else 0)
            self._expect(expected, newest)
            await time.pause()

    async def _read(self, timeout: float) -> tuple[bytes, int]:
        found = await self._core.kv.get(self._name, timeout=timeout)
        return (b"", 0) if found is None else (found.value, found.mod_revision)

    async def _attempt(
        self, raw: bytes, value: bytes, seen: int, expected: int | None, timeout: float
    ) -> Marked:
        when: tuple[Compare, ...] = (compare.mod_revision(self._name) == seen,)
        if expected is not None:
            when += (compare.mod_revision(self._canary) < expected + 1,)
        then: tuple[Op, ...] = (op.put(self._name, raw),)
        if seen and self._history:
            then += (
                op.put(self._old_key(seen), value),
                op.get_prefix(self._old, limit=self._history, keys_only=True, descending=True),
            )
        otherwise = (op.get(self._name), op.get(self._canary, keys_only=True))
        return await self._core.markers.run(when, then, otherwise, timeout=timeout)

    def _old_key(self, revision: int) -> bytes:
        # As wide as any revision: then they sort by age.
        return self._old + format(revision, f"0{_REVISION_DIGITS}d").encode()

    async def _prune(self, marked: Marked) -> None:
        """Delete what the history has too much, when that is somewhat more."""
        if marked.result is None or len(marked.result.responses) < 3:  # noqa: PLR2004 - the listing is the third
            return
        kept = marked.result.range(2)
        if kept.count > self._history + _HISTORY_SLACK:
            # What fails now, the next publication does.
            with contextlib.suppress(CoordError):
                await self._core.txn.run(
                    (),
                    (op.delete_range(self._old, kept.items[-1].key),),
                    repeat=Repeat.IDEMPOTENT,
                )

    async def kept(self, revision: int, timeout: float | None) -> bytes | None:
        """Return the document that was written at ``revision``, None if it cannot be had."""
        result = await self._core.txn.run(
            (),
            (op.get(self._name), op.get(self._old_key(revision))),
            timeout=timeout,
        )
        present, old = result.range(0).items, result.range(1).items
        if present and present[0].mod_revision == revision:
            return present[0].value
        if old:
            return old[0].value
        # Overwritten by somebody who keeps no history: perhaps it has not been compacted yet.
        try:
            then = await self._core.kv.get(self._name, revision=revision, timeout=timeout)
        except (Compacted, FutureRevision):
            return None
        return then.value if then is not None and then.mod_revision == revision else None

    async def history(self, timeout: float | None) -> tuple[Versioned[bytes], ...]:
        """Return the old documents, the newest first."""
        request = range_request(self._old, prefix_end(self._old), descending=True)
        found = await self._core.kv.range(request, timeout=timeout)
        return tuple(
            [
                Versioned(value=kv.value, revision=int(revision))
                for kv in found.items
                if (revision := kv.key[len(self._old) :]).isdigit()
            ]
        )

    async def canary(self, raw: bytes, percent: float, timeout: float | None) -> int:
        """Write the canary; return the revision."""
        time = _Clocked(self._core, timeout)
        salt = format(self._core.env.rand.bits(32), "08x")
        try:
            stored = encode_canary(raw, percent, salt)
        except ValueError as error:
            raise InvalidArgument("a canary needs a codec that writes JSON") from error
        found = await self._core.kv.get(self._canary, timeout=time.left)
        if found is not None:
            with contextlib.suppress(ValueError):  # somebody else's idea of a canary
                _, before, same = canary_of(found.value)
                if same == canary_of(stored)[2]:
                    stored = encode_canary(raw, percent, before)
        write = op.put(self._canary, self._limited(stored))
        marked = await self._core.markers.run((), (write,), timeout=time.left)
        return marked.revision


class TreePublisher(_Publisher):
    """Writes the keys below a prefix. ``known`` tells what a reader has: values and mod revisions; None if nothing."""

    def __init__(
        self,
        core: Core,
        name: bytes,
        *,
        known: Callable[[], tuple[dict[bytes, tuple[bytes, int]], int] | None],
    ) -> None:
        super().__init__(core, name)
        self._prefix = name + b"/"
        self._known = known

    async def publish(self, raw: bytes, expected: int | None, timeout: float | None) -> int:
        """Make the tree what ``raw`` says, in one transaction; return the revision."""
        time = _Clocked(self._core, timeout)
        try:
            wanted = flatten(raw, self._prefix)
        except ValueError as error:
            raise ConfigInvalid(self._name, str(error)) from error
        pairs, revision = self._known() or await self._read(time.left)
        while True:
            newest = max((mod for _, mod in pairs.values()), default=0)
            self._expect(expected, newest)
            then = tuple(
                [
                    op.put(key, self._limited(value))
                    for key, value in wanted.items()
                    if key not in pairs or pairs[key][0] != value
                ]
                + [op.delete(key) for key in pairs if key not in wanted]
            )
            if not then:
                return revision
            # Nothing newer, and nothing of what is known gone: nobody came first.
            when = (
                compare.mod_revision(self._prefix, prefix=True) < revision + 1,
                *[compare.mod_revision(key) == mod for key, (_, mod) in pairs.items()],
            )
            marked = await self._core.markers.run(when, then, timeout=time.left)
            if marked.applied:
                return marked.revision
            await time.pause()
            pairs, revision = await self._read(time.left)

    async def _read(self, timeout: float) -> tuple[dict[bytes, tuple[bytes, int]], int]:
        request = range_request(self._prefix, prefix_end(self._prefix))
        found = await self._core.kv.range(request, timeout=timeout)
        return {kv.key: (kv.value, kv.mod_revision) for kv in found.items}, found.revision
