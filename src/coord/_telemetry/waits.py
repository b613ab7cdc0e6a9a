"""Waits and holds of recipes: a span each, side by side under the caller's, and their links.

An entry whose value is ours names the span of the wait that created it (W3C ``traceparent``).
Who lines up behind reads it in the same request that creates his own, and links to it: the trace shows who is in the
way, in whichever process that is.
"""

from __future__ import annotations

import asyncio
import json
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar, cast

from coord._telemetry import names
from coord._telemetry.notes import note_loss, reason_of
from coord._telemetry.providers import telemetry
from coord._telemetry.spans import api, entered, fail

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from opentelemetry.context import Context
    from opentelemetry.trace import Span, SpanContext

    from coord._telemetry.names import Recipe
    from coord._telemetry.providers import Telemetry
    from coord.runtime import Clock

T = TypeVar("T")

# An entry of ours is shorter; the value under somebody else's key may be anything.
_LONGEST_ENTRY = 4096


class _Wait:
    """A wait that goes on, and the context that it began in."""

    __slots__ = ("parent", "span")

    def __init__(self, span: Span | None, parent: Context | None) -> None:
        self.span = span
        self.parent = parent


_waiting: ContextVar[_Wait | None] = ContextVar("coord_wait", default=None)


def observed_wait(
    recipe: Recipe,
    what: str,
    name: str,
    make: Callable[[], Coroutine[Any, Any, T]],
    *,
    clock: Clock,
) -> Coroutine[Any, Any, T]:
    """Return the coroutine ``make()`` inside a span called ``what``.

    A result of None means that what was asked for is not free (``try_acquire``).
    """
    seen = telemetry()
    return make() if seen is None else _observe(seen, recipe, what, name, make, clock)


async def _observe(
    seen: Telemetry,
    recipe: Recipe,
    what: str,
    name: str,
    make: Callable[[], Coroutine[Any, Any, T]],
    clock: Clock,
) -> T:
    begun = clock.mono()
    span: Span | None = None
    parent: Context | None = None
    if seen.tracer is not None:
        parent = api().set_span_in_context(api().get_current_span())
        span = seen.tracer.start_span(what, attributes={names.NAME: names.bounded(name)})
    outcome, failed = "granted", None
    token = _waiting.set(_Wait(span, parent))
    try:
        with entered(span):
            result = await make()
        if result is None and what == recipe.attempt:
            outcome = "refused"
        return result
    except BaseException as error:
        outcome, failed = _outcome_of(error), error
        raise
    finally:
        _waiting.reset(token)
        if span is not None:
            span.set_attribute(names.OUTCOME, outcome)
            if failed is not None:
                fail(span, failed)
            span.end()
        if seen.instruments is not None:
            attributes = {names.RECIPE: recipe.name, names.OUTCOME: outcome}
            seen.instruments.waits.record(clock.mono() - begun, attributes)


def _outcome_of(error: BaseException) -> str:
    if isinstance(error, asyncio.CancelledError):
        return "cancelled"
    return "timeout" if isinstance(error, TimeoutError) else "failed"


# -- the line ------------------------------------------------------------------------------------------------------


def note_queue(recipe: Recipe, length: int) -> None:
    """Tell how many entries were in line when ours was created."""
    wait, seen = _waiting.get(), telemetry()
    if wait is not None and wait.span is not None:
        wait.span.set_attribute(names.QUEUE_LENGTH, length)
    if seen is not None and seen.instruments is not None:
        seen.instruments.queue.record(length, {names.RECIPE: recipe.name})


def wants_holder(recipe: Recipe) -> bool:
    """Whether the holder's entry is worth reading: somebody records, and the entry may name a span."""
    wait = _waiting.get()
    return (
        recipe.carries_trace
        and wait is not None
        and wait.span is not None
        and wait.span.is_recording()
    )


def link_to_holder(recipe: Recipe, key: bytes, token: int, value: bytes) -> None:
    """Link the wait to the span that the entry in the way names, if it names one."""
    wait = _waiting.get()
    if not wants_holder(recipe) or wait is None or wait.span is None:
        return
    context = _named_span(value)
    if context is not None:
        wait.span.add_link(context, {names.KEY: names.bounded(key), names.TOKEN: token})


def entry_context() -> dict[str, str]:
    """Return what an entry of ours tells about the wait that creates it: ``traceparent``, or nothing."""
    wait = _waiting.get()
    if wait is None or wait.span is None:
        return {}
    carrier: dict[str, str] = {}
    # This format whatever the global propagator is: others must be able to read it.
    _trace_context().inject(carrier, context=api().set_span_in_context(wait.span))
    return {key: value for key, value in carrier.items() if key == "traceparent"}


def _named_span(value: bytes) -> SpanContext | None:
    if len(value) > _LONGEST_ENTRY:
        return None
    try:
        entry: object = json.loads(value)
    except (ValueError, RecursionError):
        return None
    named = cast("dict[str, object]", entry).get("traceparent") if isinstance(entry, dict) else None
    if not isinstance(named, str):
        return None
    found = _trace_context().extract({"traceparent": named}, context=_no_context())
    context: SpanContext = api().get_current_span(found).get_span_context()
    return context if context.is_valid else None


def _trace_context() -> Any:  # noqa: ANN401 - loaded with the first span
    from opentelemetry.trace.propagation.tracecontext import (
        TraceContextTextMapPropagator,
    )

    return TraceContextTextMapPropagator()


def _no_context() -> Context:
    empty: Context = api().set_span_in_context(api().INVALID_SPAN)
    return empty


def own_span() -> SpanContext | None:
    """Return what others of this process link to who wait behind the wait that goes on here, None without a span."""
    wait = _waiting.get()
    return None if wait is None or wait.span is None else wait.span.get_span_context()


def link_to_head(head: SpanContext | None) -> None:
    """Link the wait to the one before it in the line of this process, which its turn comes after."""
    wait = _waiting.get()
    if head is not None and wait is not None and wait.span is not None:
        wait.span.add_link(head)


# -- holds ---------------------------------------------------------------------------------------------------------


class HoldSpan:
    """A hold that somebody listens to, from the grant to the release or the loss."""

    __slots__ = ("_begun", "_clock", "_recipe", "_seen", "_span")

    def __init__(self, seen: Telemetry, recipe: Recipe, clock: Clock, span: Span | None) -> None:
        self._seen = seen
        self._recipe = recipe
        self._clock = clock
        self._begun = clock.mono()
        self._span = span

    def lost(self, reason: str, error: type[Exception]) -> None:
        """End it as lost."""
        if self._span is not None:
            trace = api()
            self._span.set_attributes(
                {names.REASON: reason_of(reason), names.ERROR_TYPE: error.__name__}
            )
            self._span.set_status(trace.Status(trace.StatusCode.ERROR, names.bounded(reason)))
        self.end()

    def end(self) -> None:
        """End it."""
        if self._span is not None:
            self._span.end()
        if self._seen.instruments is not None:
            held = self._clock.mono() - self._begun
            self._seen.instruments.holds.record(held, {names.RECIPE: self._recipe.name})


def begin_hold(
    recipe: Recipe, name: str, token: int, lease_id: int, *, clock: Clock
) -> HoldSpan | None:
    """Begin the span of a hold beside that of the wait that led to it, linked to it; None when nobody listens."""
    seen, wait = telemetry(), _waiting.get()
    if seen is None:
        return None
    span: Span | None = None
    waited = None if wait is None else wait.span
    if waited is not None:
        waited.set_attribute(names.TOKEN, token)
    if seen.tracer is not None:
        span = seen.tracer.start_span(
            recipe.hold,
            context=None if wait is None else wait.parent,
            links=[] if waited is None else [api().Link(waited.get_span_context())],
            attributes={
                names.NAME: names.bounded(name),
                names.TOKEN: token,
                names.LEASE: format(lease_id, "x"),
            },
        )
    return HoldSpan(seen, recipe, clock, span)


def hold_lost(hold: HoldSpan | None, recipe: Recipe, reason: str, error: type[Exception]) -> None:
    """Tell that what was held is lost."""
    note_loss(recipe, reason)
    if hold is not None:
        hold.lost(reason, error)
