"""What one member sees of the group and of the owners: a copy of both, with one watch.

It can be behind the store. An answer to a claim may tell of a later owner than the view has come to, and is not
forgotten for what the view shows of the time before.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from coord.cache import Cache
from coord.cache.mirror import Limits
from coord.errors import ClientClosed, CoordError
from coord.recipes.partitioner.state import weight_of
from coord.runtime import Backoff
from coord.store.keys import prefix_range

if TYPE_CHECKING:
    import asyncio
    from typing import Protocol

    from coord.cache import CacheBatch, CacheSnapshot, Changes, Mirrors
    from coord.codec.values import Entry as Pair
    from coord.coordination import Coordination
    from coord.recipes.partitioner.ownership import Ownership
    from coord.recipes.partitioner.state import Names

    class Reader(Protocol):
        """Who is told what the view shows. On the runtime's loop."""

        def members_changed(self) -> None:
            """Take note that there are other members, or other weights."""
            ...

        def owner_changed(self, partition: str, token: int, revision: int) -> None:
            """Take note of the token of a partition's owner as of ``revision``, 0 for none."""
            ...

        def view_failed(self, error: CoordError) -> None:
            """Take note that nothing is shown until the range can be read again."""
            ...


_LIMITS = Limits(max_keys=1_000_000, max_bytes=1 << 30)
_RETRY_FIRST_S, _RETRY_MAX_S = 0.1, 5.0


class View:
    """The members and the owners below one name. On the runtime's loop."""

    def __init__(self, home: Coordination, mirrors: Mirrors, names: Names, reader: Reader) -> None:
        self._home = home
        self._mirrors = mirrors
        self._names = names
        self._reader = reader
        self._cache: Cache[bytes] | None = None
        self._changes: Changes[bytes] | None = None
        self._follower: asyncio.Task[object] | None = None
        self.members: dict[str, int] = {}
        """The weights of the members, by their ids."""
        self.owners: dict[str, int] = {}
        """The tokens of the owners, by partition."""

    async def open(self) -> None:
        """Read everything, and follow it from then on. Raises what a cache raises; nothing is left then."""
        await self._read()
        self._follower = self._home.background(self._follow(), name="partitioner-view")

    def close(self) -> None:
        """End it."""
        if self._follower is not None:
            self._follower.cancel()
        cache, self._cache = self._cache, None
        if cache is not None:
            cache.close()

    def note_owner(self, partition: str, token: int) -> None:
        """Take note of an owner that the store has told of, if the view has not come to it yet.

        If it has, it knows better: it may have shown the end of that owner, and will not show it again.
        """
        if self._as_of() < token:
            self.owners[partition] = max(token, self.owners.get(partition, 0))

    def _as_of(self) -> int:
        if self._cache is not None:
            with contextlib.suppress(CoordError):  # who follows the view will tell
                return self._cache.as_of
        return 0

    def shows_end(self, own: Ownership) -> bool:
        """Whether it can be seen that the key of an ownership is gone."""
        if self._cache is None:
            return False
        with contextlib.suppress(CoordError):  # who follows the view will tell
            snapshot = self._cache.snapshot()
            pair = snapshot.entry(own.key)
            return is_over(own, 0 if pair is None else pair.create_revision, snapshot.as_of)
        return False

    # -- following -------------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        start, end = prefix_range(self._names.prefix)
        cache: Cache[bytes] = Cache(
            self._mirrors, start, end, codec=None, limits=_LIMITS, timeout=None
        )
        await cache.open()
        self._cache, self._changes = cache, cache.changes()
        self._load(cache.snapshot())

    def _load(self, snapshot: CacheSnapshot[bytes]) -> None:
        """Take in all that there is."""
        names, gone = self._names, self.owners.copy()
        members = {
            names.member_of(pair.key): weight
            for pair in snapshot.entries(names.members)
            if (weight := weight_of(pair.value))
        }
        for pair in snapshot.entries(names.owners):
            partition = names.partition_of(pair.key)
            gone.pop(partition, None)
            self._show_owner(partition, pair, snapshot.as_of)
        for partition in gone:
            self._show_owner(partition, None, snapshot.as_of)
        if members != self.members:
            self.members = members
            self._reader.members_changed()

    async def _follow(self) -> None:
        while True:
            try:
                while self._changes is not None:
                    self._take_in(await anext(self._changes))
            except ClientClosed:
                return
            except CoordError as error:
                # Too many keys, or no rights any more. What is owned stays so, by its session.
                self._reader.view_failed(error)
            cache, self._cache = self._cache, None
            if cache is not None:
                cache.close()
            backoff = Backoff(self._home.env.rand, _RETRY_FIRST_S, _RETRY_MAX_S)
            while self._cache is None:
                await backoff.pause()
                with contextlib.suppress(CoordError):
                    await self._read()

    def _take_in(self, batch: CacheBatch[bytes]) -> None:
        names, changed = self._names, False
        for change in batch.changes:
            if change.key.startswith(names.owners):
                self._show_owner(names.partition_of(change.key), change.new, batch.revision)
            elif change.key.startswith(names.members):
                changed |= self._show_member(names.member_of(change.key), change.new)
        if changed:
            self._reader.members_changed()

    def _show_member(self, ident: str, pair: Pair[bytes] | None) -> bool:
        weight = 0 if pair is None else weight_of(pair.value)
        if self.members.get(ident, 0) == weight:
            return False
        if weight:
            self.members[ident] = weight
        else:
            del self.members[ident]
        return True

    def _show_owner(self, partition: str, pair: Pair[bytes] | None, revision: int) -> None:
        token = 0 if pair is None else pair.create_revision
        if self.owners.get(partition, 0) <= revision:
            if token:
                self.owners[partition] = token
            else:
                self.owners.pop(partition, None)
        self._reader.owner_changed(partition, token, revision)


def is_over(own: Ownership, token: int, revision: int) -> bool:
    """Whether an ownership is over when its key had ``token`` as of ``revision``, 0 for no key."""
    return revision >= own.token != token
