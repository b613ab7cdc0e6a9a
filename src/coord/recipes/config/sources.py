"""What the store holds, as one document. On the runtime's loop, except where it says otherwise."""

from __future__ import annotations

import asyncio
import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from coord.errors import CoordError
from coord.runtime import start_task

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from coord.cache import Cache, NodeCache
    from coord.cache.snapshot import Reads

_PERCENT = 100
_to_json = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A document as bytes, and the revision that wrote it. ``canary``: this instance is one of the few that try it."""

    raw: bytes
    revision: int
    canary: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What there is, best first: a canary that this instance takes, then the document everybody has.

    ``revision`` is the newest that had a say in it; ``wrong`` tells what is wrong with something that was left out.
    """

    documents: tuple[Document, ...]
    revision: int
    wrong: str = ""


def encode_canary(raw: bytes, percent: float, salt: str) -> bytes:
    """Return the value of a canary key. Raises ``ValueError`` if ``raw`` is no JSON."""
    return _to_json({"percent": percent, "salt": salt, "value": json.loads(raw)}).encode()


def canary_of(value: bytes) -> tuple[float, str, bytes]:
    """Return the percentage, the salt and the document of a canary. Raises ``ValueError``."""
    loaded: object = json.loads(value)
    try:
        given = cast("dict[str, Any]", loaded)
        return float(given["percent"]), str(given["salt"]), _to_json(given["value"]).encode()
    except (TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"not a canary: {error!r}") from error


def takes(instance: str, salt: str, percent: float) -> bool:
    """Say whether ``instance`` is one of the first ``percent`` of all."""
    drawn = hashlib.sha256(f"{salt}/{instance}".encode()).digest()
    # Of 10,000 rather than of 100, so that a tenth of a percent is something too.
    return int.from_bytes(drawn[:8], "big") % (_PERCENT * 100) < percent * 100


class DocumentSource:
    """One key, and the canary beside it."""

    def __init__(self, main: NodeCache[bytes], canary: NodeCache[bytes], instance: str) -> None:
        self._main = main
        self._canary = canary
        self._instance = instance
        self._admitted = 0  # the canary's revision up to which the document is known too
        self._news = asyncio.Event()
        self._error: CoordError | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        """Wait until it is complete; a store that is down is waited for."""
        await self._main.open()
        await self._canary.open()
        self._tasks = [
            start_task(self._follow(self._main.changes(), self._note), name="config document"),
            start_task(self._follow(self._canary.changes(), self._admit), name="config canary"),
        ]
        await self._admit()

    async def _follow(self, changes: AsyncIterator[object], then: Callable[[], Any]) -> None:
        try:
            async for _ in changes:
                await then()
        except CoordError as error:
            self._error = error
            self._news.set()

    async def _note(self) -> None:
        self._news.set()

    async def _admit(self) -> None:
        """Let a canary count once the document is known at its revision: it may have been replaced since."""
        pair = self._canary.pair
        if pair is not None:
            await self._main.wait_revision(pair.mod_revision)
            self._admitted = pair.mod_revision
        self._news.set()

    async def changed(self) -> None:
        """Wait until something may have changed since the last call. Raises what the reading has ended with."""
        await self._news.wait()
        self._news.clear()
        if self._error is not None:
            raise self._error

    def look(self) -> Found:
        """Return what there is now."""
        main, canary = self._main.pair, self._canary.pair
        documents: list[Document] = []
        revision, wrong = 0, ""
        if main is not None:
            documents.append(Document(raw=main.value, revision=main.mod_revision))
            revision = main.mod_revision
        if canary is not None and revision < canary.mod_revision <= self._admitted:
            revision = canary.mod_revision
            try:
                percent, salt, raw = canary_of(canary.value)
            except ValueError as error:
                wrong = f"the canary: {error}"
            else:
                if takes(self._instance, salt, percent):
                    tried = Document(raw=raw, revision=canary.mod_revision, canary=True)
                    documents.insert(0, tried)
        return Found(documents=tuple(documents), revision=revision, wrong=wrong)

    def known(self) -> tuple[bytes, int] | None:
        """Return the document and its revision, 0 for a missing one; None before it was read. From any thread."""
        try:
            pair = self._main.pair
        except CoordError:
            return None
        return (b"", 0) if pair is None else (pair.value, pair.mod_revision)

    @property
    def stale_for(self) -> float:
        """As of the cache. From any thread."""
        return self._main.stale_for

    async def close(self) -> None:
        """End the reading."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._main.close()
        self._canary.close()


class TreeSource:
    """All keys below a prefix, as one object: ``a/b`` is the member ``b`` of the member ``a``."""

    def __init__(self, view: Cache[bytes], prefix: bytes) -> None:
        self._view = view
        self._prefix = prefix
        self._changes: AsyncIterator[object] | None = None
        self._first = True

    async def open(self) -> None:
        """Wait until it is complete; a store that is down is waited for."""
        await self._view.open()
        self._changes = aiter(self._view.changes())

    async def changed(self) -> None:
        """Wait until something has changed since the last call. Raises what the reading has ended with."""
        if self._first or self._changes is None:
            self._first = False
            return
        await anext(self._changes)

    def look(self) -> Found:
        """Return what there is now: all of it as of one revision."""
        now = self._view.snapshot()
        if not len(now):
            return Found(documents=(), revision=now.revision)
        try:
            raw = assemble(now, self._prefix)
        except ValueError as error:
            return Found(documents=(), revision=now.revision, wrong=str(error))
        return Found(documents=(Document(raw=raw, revision=now.revision),), revision=now.revision)

    def known(self) -> tuple[dict[bytes, tuple[bytes, int]], int] | None:
        """Return the pairs with their revisions, and the revision of all; None before it was read. From any thread."""
        try:
            now = self._view.snapshot()
        except CoordError:
            return None
        return {e.key: (e.value, e.mod_revision) for e in now.entries()}, now.revision

    @property
    def stale_for(self) -> float:
        """As of the cache. From any thread."""
        return self._view.stale_for

    async def close(self) -> None:
        """End the reading."""
        self._view.close()


def assemble(pairs: Reads[bytes], prefix: bytes) -> bytes:
    """Return a tree of JSON values as one JSON object. Raises ``ValueError`` for what is none."""
    tree: dict[str, Any] = {}
    for key, value in pairs.items():
        path = key[len(prefix) :].decode()
        *above, last = path.split("/")
        place = tree
        for step in above:
            inner = place.setdefault(step, {})
            if not isinstance(inner, dict):
                raise ValueError(f"{path!r} lies below a key that is a value itself")  # noqa: TRY004 - of the data
            place = cast("dict[str, Any]", inner)
        if last in place:
            raise ValueError(f"{path!r} is a value, and has keys below it")
        try:
            place[last] = json.loads(value)
        except ValueError as error:
            raise ValueError(f"{path!r} is no JSON: {error}") from error
    return _to_json(tree).encode()


def flatten(raw: bytes, prefix: bytes) -> dict[bytes, bytes]:
    """Return the keys of a JSON object's members. Raises ``ValueError`` if it is no object, or a name has a ``/``."""
    loaded: object = json.loads(raw)
    if not isinstance(loaded, dict):
        raise ValueError("a tree is an object with members")  # noqa: TRY004 - of the data
    return {
        prefix + name.encode(): _to_json(value).encode()
        for name, value in _leaves(cast("dict[str, object]", loaded), "")
    }


def _leaves(tree: dict[str, object], above: str) -> list[tuple[str, object]]:
    found: list[tuple[str, object]] = []
    for name, value in tree.items():
        if not name or "/" in name:
            raise ValueError(f"{above + name!r} is no name for a key")
        if isinstance(value, dict) and value:
            found += _leaves(cast("dict[str, object]", value), f"{above}{name}/")
        else:
            found.append((above + name, cast("Any", value)))
    return found
