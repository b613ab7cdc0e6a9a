"""A live list of the instances of one service, and the picking from it."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from typing_extensions import override

from coord.errors import ClientClosed, CoordError, InvalidArgument
from coord.recipes.registry.ejection import Ejection
from coord.recipes.registry.errors import NoInstance, ServiceTimeout
from coord.recipes.registry.instance import Instance

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Mapping
    from types import TracebackType

    from coord.cache import Cache, CacheBatch
    from coord.core import Core
    from coord.errors import DecodeError
    from coord.recipes.asking import Question
    from coord.recipes.registry.brake import Brake
    from coord.recipes.registry.instance import Record
    from coord.recipes.registry.picking import Strategy

_SPILL_BELOW = 0.5


class Follower:
    """Follows a cache and keeps the list. On the runtime's loop, but :attr:`shown` is read anywhere."""

    def __init__(
        self,
        core: Core,
        cache: Cache[Record],
        prefix: bytes,
        brake: Brake,
        probe: Question[bool] | None,
    ) -> None:
        self._core = core
        self.cache: Cache[Record] = cache
        self._prefix = prefix
        self._brake = brake
        self._probe = probe
        self._present: dict[bytes, Instance] = {}
        self.shown: tuple[Instance, ...] = ()
        """All that are to be shown, in the order of their keys; replaced as a whole."""
        self.error: CoordError | None = None
        self._news = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin with what the cache has now."""
        changes = self.cache.changes()
        for entry in self.cache.snapshot().entries():
            self._present[entry.key] = Instance.of(self._prefix, entry)
        self._publish()
        try:
            self._tasks.append(self._core.supervisor.spawn(self._run(changes), name="service-view"))
        except RuntimeError:
            raise ClientClosed from None

    async def _run(self, changes: AsyncIterator[CacheBatch[Record]]) -> None:
        try:
            while True:
                batch = await self._next(changes)
                if batch is not None:
                    self._apply(batch)
                self._publish()
        except CoordError as error:
            self._end(error)
        except asyncio.CancelledError:
            self._end(ClientClosed("the view"))
            raise

    def _end(self, error: CoordError) -> None:
        if self.error is None:
            self.error = error
        self._wake()

    async def _next(self, changes: AsyncIterator[CacheBatch[Record]]) -> CacheBatch[Record] | None:
        """Return the next batch, or None when the brake lets somebody go before."""
        end = self._brake.next_end()
        pause = None if end is None else max(0.0, end - self._core.env.clock.mono())
        scope = asyncio.timeout(pause)
        try:
            async with scope:
                return await anext(changes)
        except TimeoutError:
            if not scope.expired():
                raise
            return None

    def _apply(self, batch: CacheBatch[Record]) -> None:
        gone: list[Instance] = []
        for change in batch.changes:
            if change.new is None:
                known = self._present.pop(change.key, None)
                if known is not None:
                    gone.append(known)
            else:
                self._present[change.key] = Instance.of(self._prefix, change.new)
                self._brake.came((change.key,))
        now = self._core.env.clock.mono()
        if gone and self._brake.vanished(gone, len(self._present), now) and self._probe:
            for each in self._brake.held(now):
                with contextlib.suppress(RuntimeError):
                    self._core.supervisor.spawn(self._examine(each, self._probe), name="probe")

    async def _examine(self, instance: Instance, probe: Question[bool]) -> None:
        """Let go of a held instance that does not answer."""
        try:
            alive = await probe.ask(instance)
        except Exception:  # noqa: BLE001 - a probe that raises has not found it alive
            alive = False
        if not alive and instance.key not in self._present:
            self._brake.drop(instance.key)
            self._publish()

    def _publish(self) -> None:
        held = self._brake.held(self._core.env.clock.mono())
        everything = {each.key: each for each in held} | self._present
        now = tuple([everything[key] for key in sorted(everything)])
        if now != self.shown:
            self.shown = now
            self._wake()

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def after(self, seen: tuple[Instance, ...]) -> tuple[Instance, ...]:
        """Wait until another list than ``seen`` is shown. Raises what it has ended with."""
        while self.shown is seen:
            self.check()
            await self._news.wait()
        return self.shown

    def check(self) -> None:
        """Raise what it has ended with. From any thread."""
        if self.error is not None:
            raise self.error

    def stop(self) -> None:
        """End it."""
        for task in self._tasks:
            task.cancel()
        self.cache.close()
        self._end(ClientClosed("the view"))


@dataclass(frozen=True, slots=True)
class _Choice:
    """From whom to pick, and for which list, ejections and time that holds."""

    source: tuple[Instance, ...]
    ejections: int
    until: float
    candidates: tuple[Instance, ...]


class ServiceView:
    """The instances of one service, live. Made by ``registry.discover()``; usable from any thread and loop.

    :meth:`pick`, :meth:`instances` and :meth:`report` are local and do not wait.
    While the store cannot be reached the list stays as it was, and :attr:`stale_for` says for how long.
    """

    def __init__(
        self,
        core: Core,
        service: str,
        follower: Follower,
        strategy: Strategy,
        *,
        zone: str | None,
        accept: Callable[[Instance], bool] | None,
    ) -> None:
        self._core = core
        self.service: str = service
        """The name of the service."""
        self._follower = follower
        self._strategy = strategy
        self._zone = zone
        self._accept = accept
        self._ejection = Ejection(core.env.clock)
        self._accepted: tuple[tuple[Instance, ...], tuple[Instance, ...]] = ((), ())
        self._choice: _Choice | None = None
        self._closed = False

    @override
    def __repr__(self) -> str:
        """Show the service and how many there are."""
        return f"<coord.ServiceView of {self.service!r}: {len(self._follower.shown)} instances>"

    async def __aenter__(self) -> Self:
        """Close the view at the end of the block."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the view."""
        self.close()

    def close(self) -> None:
        """End it, without waiting. Reading raises :class:`coord.ClientClosed` then. Safe to call twice."""
        if not self._closed:
            self._closed = True
            with contextlib.suppress(CoordError, RuntimeError):  # everything has ended already
                self._core.runtime.post(self._follower.stop)

    def __del__(self) -> None:
        """Give back what a view that nobody closed holds."""
        if getattr(self, "_follower", None) is not None and not self._core.runtime.is_forked:
            self.close()

    # -- reading ---------------------------------------------------------------------------------------------------

    def instances(self) -> tuple[Instance, ...]:
        """Return all instances that the filter lets through, those that are failing or draining too, by their keys."""
        self._core.runtime.check_process()
        if self._closed:
            raise ClientClosed("the view")
        self._follower.check()
        return self._filtered(self._follower.shown)

    def _filtered(self, shown: tuple[Instance, ...]) -> tuple[Instance, ...]:
        if self._accept is None:
            return shown
        of, kept = self._accepted
        if of is not shown:
            kept = tuple([each for each in shown if self._accept(each)])
            self._accepted = shown, kept
        return kept

    @property
    def stale_for(self) -> float:
        """Seconds for which changes may be missing: 0 while the store watches, else since it was last heard."""
        return self._follower.cache.stale_for

    @property
    def undecodable(self) -> Mapping[bytes, DecodeError]:
        """Entries of the service that are no instances, and why."""
        return self._follower.cache.undecodable

    async def watch(self) -> AsyncIterator[tuple[Instance, ...]]:
        """Yield the instances now, and again after each change; lists that come faster than taken are skipped."""
        shown = self._follower.shown
        told = self.instances()
        yield told
        while True:
            shown = await self._core.runtime.run(self._follower.after(shown))
            now = self._filtered(shown)
            if now != told:
                told = now
                yield now

    async def wait_for(self, n: int, *, timeout: float | None = None) -> tuple[Instance, ...]:
        """Wait until there are at least ``n`` instances that serve, and return these.

        Raises :class:`ServiceTimeout` after ``timeout`` seconds. A cancelled wait leaves nothing behind.
        """
        if n < 0:
            raise InvalidArgument(f"n must be at least 0, not {n}")
        scope = asyncio.timeout(timeout)
        serving: tuple[Instance, ...] = ()
        try:
            async with scope:
                while True:
                    shown = self._follower.shown
                    serving = _serving(self.instances())
                    if len(serving) >= n:
                        return serving
                    await self._core.runtime.run(self._follower.after(shown))
        except TimeoutError:
            if not scope.expired():
                raise
            raise ServiceTimeout(
                f"waiting for {n} instances of {self.service!r}",
                timeout,
                explain=f"there are {len(serving)}",
            ) from None

    # -- picking ---------------------------------------------------------------------------------------------------

    def pick(self, key: str | bytes | None = None, *, avoid: Collection[bytes] = ()) -> Instance:
        """Return the instance to use next; ``key`` is for the ``sticky`` strategy, which needs it.

        ``avoid``: keys of instances to leave out if there are others, for example those tried already.
        Instances that fail, drain or are ejected are left out as long as there are others.
        Raises :class:`NoInstance` when there is none at all.
        """
        candidates = self._candidates()
        if not candidates:
            raise NoInstance(self.service)
        if avoid:
            others = tuple([each for each in candidates if each.key not in avoid])
            candidates = others or candidates
        return self._strategy.pick(candidates, key)

    def report(self, instance: Instance, *, ok: bool, latency: float | None = None) -> None:
        """Tell how a call to ``instance`` has ended, and within how many seconds.

        Five errors in a row put it out for 5 seconds, the next time for 10, and so on up to 300; at most half of the
        instances are out at a time. ``least_loaded`` counts calls from pick to report, so it needs one for each pick.
        """
        self._strategy.report(instance, ok=ok, latency=latency)
        self._ejection.report(instance, self.instances(), ok=ok)

    def _candidates(self) -> tuple[Instance, ...]:
        everybody = self.instances()
        choice = self._choice
        if (
            choice is None
            or choice.source is not everybody
            or choice.ejections != self._ejection.version
            or self._core.env.clock.mono() >= choice.until
        ):
            choice = self._choice = self._choose(everybody)
        return choice.candidates

    def _choose(self, everybody: tuple[Instance, ...]) -> _Choice:
        self._ejection.forget_all_but(frozenset(each.key for each in everybody))
        ejections = self._ejection.version
        healthy = _serving(everybody) or everybody
        admitted, until = self._ejection.admitted(healthy)
        candidates = self._near(everybody, admitted or healthy)
        return _Choice(everybody, ejections, until, candidates)

    def _near(
        self, everybody: tuple[Instance, ...], candidates: tuple[Instance, ...]
    ) -> tuple[Instance, ...]:
        """Return the candidates of our zone, or all if too much of the zone's capacity is out of order."""
        if self._zone is None:
            return candidates
        near = tuple([each for each in candidates if each.zone == self._zone])
        # One more for each, so that instances of weight 0 count as something.
        nominal = sum([each.weight + 1 for each in everybody if each.zone == self._zone])
        able = sum([each.weight + 1 for each in near])
        return near if near and able >= nominal * _SPILL_BELOW else candidates


def _serving(instances: tuple[Instance, ...]) -> tuple[Instance, ...]:
    return tuple([each for each in instances if each.health == "serving"])
