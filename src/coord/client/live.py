"""The part of a client that makes live configuration, topics and rate limiters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, cast

from coord.codec import Codec, as_codec
from coord.entry import check_name
from coord.errors import InvalidArgument
from coord.recipes.config import Config
from coord.recipes.config.publishing import DocumentPublisher, TreePublisher
from coord.recipes.config.reader import Reader
from coord.recipes.config.snapshot import SnapshotFile
from coord.recipes.config.sources import DocumentSource, TreeSource
from coord.recipes.rate_limiter import RateLimiter
from coord.recipes.topic import Topic
from coord.runtime import process_identity
from coord.store.values import WatchFilter

if TYPE_CHECKING:
    from collections.abc import Callable

    from coord.cache import Mirrors
    from coord.client.client import Client
    from coord.coordination import Coordination
    from coord.recipes.rate_limiter import RateMode
    from coord.watching import Watch

T = TypeVar("T")

ABSENT: Any = object()
"""Instead of a default: there is none."""


class LiveCalls:
    """Configuration, topics and rate limiters of a :class:`coord.Client`."""

    _home: Coordination
    _mirrors: Mirrors

    async def config(
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
        """Read the configuration called ``name`` and follow it; see :class:`Config`.

        ``model`` is the type of the value, or a codec, as for :meth:`typed`; ``validate`` is called with each value,
        on a worker thread, and refuses it by raising or by returning False. ``default`` is used while there is no
        document. With ``tree=True`` each member is a key of its own below ``name/``, with a JSON value.
        ``history`` is how many documents before the present one are kept.
        ``snapshot`` is the path of a file that keeps the last good document: when the store does not answer within
        ``timeout`` seconds (None: the client's ``request_timeout``, or without a snapshot for ever), that is used.
        ``instance`` is the name by which this process is chosen for canaries; by default host and process id.

        Raises :class:`coord.ConfigUnavailable` when there is none, :class:`coord.ConfigInvalid` when it is not valid
        and there is neither a snapshot nor a default.
        """
        if history < 0:
            raise InvalidArgument(f"history must be 0 or more, not {history}")
        raw = self._home.claim(check_name(name))
        whole = cast("Client", self)  # of which this is a part
        core = self._home.core
        source: DocumentSource | TreeSource
        publisher: DocumentPublisher | TreePublisher
        if tree:
            source = TreeSource(whole.cache(prefix=raw + b"/"), raw + b"/")
            publisher = TreePublisher(core, raw, known=source.known)
        else:
            who = instance or "{}:{}".format(*process_identity())
            source = DocumentSource(whole.cache(key=raw), whole.cache(key=raw + b"/canary"), who)
            publisher = DocumentPublisher(core, raw, history=history, known=source.known)
        codec = as_codec(model)
        reader = Reader(
            core,
            raw,
            source,
            codec=codec,
            validate=validate,
            default=() if default is ABSENT else (default,),
            snapshot=None if snapshot is None else SnapshotFile(snapshot, core.env.offload),
        )
        made = Config(self._home, raw, codec, reader, publisher)

        async def start() -> Config[T]:
            await reader.start(timeout)
            return made

        return await self._home.run(start(), discard=lambda _: reader.abandon())

    def topic(self, name: str | bytes, *, retention: float = 3600) -> Topic:
        """Return the topic called ``name``; see :class:`Topic`. Messages are kept for ``retention`` seconds.

        All publishers and subscribers of a topic must be told the same retention.
        """
        whole = cast("Client", self)

        def watch(log: bytes, start: int) -> Watch:
            return whole.watch(
                log, prefix=True, start_revision=start, filters=(WatchFilter.NO_DELETE,)
            )

        return Topic(self._home, name, watch, retention=retention)

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
        """Return the limiter called ``name``, of ``rate`` permits per second; see :class:`RateLimiter`.

        ``burst`` is how many there may be at once, by default as many as in a second.
        ``mode="strict"``: every permit is a transaction on one key. ``batch`` takes so many at a time, for fewer
        requests; what is not used within ``batch_window`` seconds is given back. ``fair=True`` serves all processes
        first come first served, for two requests more; it makes the mode a strict one.
        ``mode="divided"``: each user has a share by its ``weight``, and asks nobody. Shares follow the members: one who
        joins gets the first permits after ``ttl`` seconds, one who has crashed holds its share for up to two of those.
        ``"auto"``: what the store has; where it has none, divided if ``rate / batch`` is above 50, what the strict mode
        would cost in transactions per second.
        ``fallback_rate``: permits per second that this process gives by itself while the store does not answer.
        """
        return RateLimiter(
            self._home,
            self._mirrors,
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
