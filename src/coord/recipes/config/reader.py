"""Follows a source, and keeps the last value that was good."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

from coord.errors import CoordError, DecodeError
from coord.recipes.config.errors import ConfigInvalid, ConfigUnavailable
from coord.runtime import start_task

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from coord.codec.protocol import Codec
    from coord.core import Core
    from coord.recipes.config.snapshot import SnapshotFile
    from coord.recipes.config.sources import Document, DocumentSource, TreeSource

T = TypeVar("T")

Origin = Literal["store", "canary", "disk", "default"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigState(Generic[T]):
    """A configuration at one time.

    ``revision`` is that of the newest change that was looked at; it never goes back. ``source`` says where ``value``
    is from: the ``store``, a ``canary``, the snapshot on ``disk``, or the ``default``. ``invalid`` tells what is wrong
    with the present document, if something is; ``value`` is then the last good one.
    """

    value: T
    revision: int
    source: Origin
    invalid: ConfigInvalid | None = None


class Reader(Generic[T]):
    """The states of one configuration. Begun and ended on the runtime's loop; ``current`` is read anywhere."""

    def __init__(
        self,
        core: Core,
        name: bytes,
        source: DocumentSource | TreeSource,
        *,
        codec: Codec[T],
        validate: Callable[[T], object] | None,
        default: tuple[T, ...],
        snapshot: SnapshotFile | None,
    ) -> None:
        self._core = core
        self._name = name
        self._source = source
        self._codec = codec
        self._validate = validate
        self._default = default
        self._snapshot = snapshot
        self.current: ConfigState[T] | None = None
        self.error: CoordError | None = None
        self._shown: tuple[int, bool] = (0, False)
        self._news = asyncio.Event()
        self._task: asyncio.Task[Any] | None = None
        self._saving: asyncio.Task[None] | None = None

    def check(self, raw: bytes, *, revision: int = 0) -> T:
        """Return the value of a document. Raises :class:`ConfigInvalid`. Runs the application's validator."""
        reason = "refused by the validator"
        try:
            value = self._codec.decode(raw)
            if self._validate is None or self._validate(value) is not False:
                return value
        except DecodeError as error:
            raise ConfigInvalid(self._name, error.reason, revision=revision) from error
        except Exception as error:
            # Codec and validator are the application's: whatever they raise, this is not valid.
            reason = f"{type(error).__name__}: {error}"
            raise ConfigInvalid(self._name, reason, revision=revision) from error
        raise ConfigInvalid(self._name, reason, revision=revision)

    async def _checked(self, document: Document) -> T:
        """As :meth:`check`, on a worker thread."""

        def check() -> T:
            return self.check(document.raw, revision=document.revision)

        return await self._core.env.offload.run(check)

    # -- on the runtime's loop -------------------------------------------------------------------------------------

    async def start(self, timeout: float | None) -> None:
        """Wait for the first state, or take it from the snapshot when the store does not answer in time.

        Raises :class:`ConfigUnavailable`, :class:`ConfigInvalid`, and refusals of the store.
        """
        self._task = self._core.supervisor.spawn(self._run(), name=f"config {self._name!r}")
        try:
            if timeout is None and self._snapshot is not None:
                timeout = self._core.caller.request_timeout
            try:
                async with asyncio.timeout(timeout):
                    await self._settled()
            except TimeoutError:
                if not await self._from_disk(self._took_too_long(timeout)):
                    raise self._took_too_long(timeout) from None
        except BaseException:
            await self.stop()
            raise

    def _took_too_long(self, timeout: float | None) -> ConfigUnavailable:
        return ConfigUnavailable(self._name, f"the store did not answer within {timeout} s")

    async def _settled(self) -> None:
        while self.current is None:
            if self.error is not None:
                if isinstance(self.error, ConfigInvalid) and await self._from_disk(self.error):
                    return
                raise self.error
            await self._news.wait()

    async def _from_disk(self, why: CoordError) -> bool:
        document = None if self._snapshot is None else await self._snapshot.read()
        if document is None or self.current is not None:
            return self.current is not None
        try:
            value = await self._checked(document)
        except ConfigInvalid:
            return False
        invalid = why if isinstance(why, ConfigInvalid) else None
        if self.current is None:
            self._publish(
                ConfigState(value=value, revision=document.revision, source="disk", invalid=invalid)
            )
        self.error = None
        return True

    async def _run(self) -> None:
        try:
            await self._source.open()
            while True:
                await self._source.changed()
                await self._evaluate()
        except CoordError as error:
            self.error = error
            self._wake()

    async def _evaluate(self) -> None:
        """Look at what there is, and publish it if it is good."""
        found = self._source.look()
        before = self.current
        newest = max(found.revision, 0 if before is None else before.revision)
        wrong = [found.wrong] if found.wrong else []
        invalid: ConfigInvalid | None = None
        if wrong:
            invalid = ConfigInvalid(self._name, wrong[0], revision=found.revision)
        for document in found.documents:
            shown = (document.revision, document.canary)
            if (
                before is not None
                and shown == self._shown
                and before.invalid is None
                and not invalid
            ):
                self.current = replace(before, revision=newest)
                return
            try:
                value = await self._checked(document)
            except ConfigInvalid as error:
                invalid = invalid or error
                continue
            origin: Origin = "canary" if document.canary else "store"
            self._shown = shown
            self._publish(ConfigState(value=value, revision=newest, source=origin, invalid=invalid))
            if self._snapshot is not None and not document.canary:
                # A task of its own, which a close lets finish.
                self._saving = start_task(self._save(document), name="config snapshot")
                await asyncio.wait({self._saving})
            return
        self._nothing_good(invalid, newest, missing=not found.documents)

    def _nothing_good(self, invalid: ConfigInvalid | None, revision: int, *, missing: bool) -> None:
        before = self.current
        if missing and invalid is None:
            if self._default:
                self._shown = (0, False)
                state = ConfigState(value=self._default[0], revision=revision, source="default")
                if before is None or before.source != "default":
                    self._publish(state)
                return
            invalid = ConfigInvalid(self._name, "the document was deleted", revision=revision)
            if before is None:
                self.error = ConfigUnavailable(self._name, "nobody has published one")
                self._wake()
                return
        if before is not None:
            self._publish(replace(before, revision=revision, invalid=invalid))
        elif self._default and invalid is not None:
            self._publish(
                ConfigState(
                    value=self._default[0], revision=revision, source="default", invalid=invalid
                )
            )
        else:
            self.error = invalid
            self._wake()

    async def _save(self, document: Document) -> None:
        if self._snapshot is not None:
            try:
                await self._snapshot.write(document)
            except OSError as error:
                asyncio.get_running_loop().call_exception_handler(
                    {"message": f"coord: no snapshot of {self._name!r}", "exception": error}
                )

    def _publish(self, state: ConfigState[T]) -> None:
        self.error = None
        self.current = state
        self._wake()

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def after(self, seen: ConfigState[T] | None) -> ConfigState[T]:
        """Wait for a state with another value, or other faults, than ``seen``. Raises what the reading ended with."""
        while True:
            now = self.current
            if self.error is not None:
                raise self.error
            if now is not None and not _same(now, seen):
                return now
            await self._news.wait()

    async def reached(self, revision: int) -> None:
        """Wait until changes up to ``revision`` were looked at. Raises what the reading has ended with."""
        while self.current is None or self.current.revision < revision:
            if self.error is not None:
                raise self.error
            await self._news.wait()

    async def stop(self) -> None:
        """End the reading."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})
        if self._saving is not None:
            await asyncio.wait({self._saving})
        await self._source.close()

    def abandon(self) -> None:
        """End the reading in the background."""
        self._core.supervisor.spawn(self.stop(), name=f"end of config {self._name!r}")

    @property
    def stale_for(self) -> float:
        """Seconds for which changes may be missing; infinite before the store has been read. From any thread."""
        now = self.current
        if now is None or now.source == "disk":
            return math.inf
        return self._source.stale_for


def _same(now: ConfigState[T], seen: ConfigState[T] | None) -> bool:
    return (
        seen is not None
        and now.value is seen.value
        and now.source == seen.source
        and now.invalid is seen.invalid
    )
