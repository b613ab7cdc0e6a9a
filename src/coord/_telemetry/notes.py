"""What is only counted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from coord._telemetry import names
from coord._telemetry.providers import telemetry
from coord._telemetry.spans import place

if TYPE_CHECKING:
    from coord.runtime import Address

# What the session and the grants say to people, in few words that are fit for a metric.
_REASONS = {
    "revoked": "revoked",
    "lease not found": "lease_not_found",
    "unhealthy": "unhealthy",
    "closed": "closed",
    "orphaned": "orphaned",
    "no renewal was confirmed in time": "expired",
    "the grant took longer than its TTL": "expired",
    "its session is past its safe deadline": "expired",
}
SESSION_ENDED = "its session ended: "


def reason_of(text: str) -> str:
    """Return the word for a reason; only few words exist."""
    return _REASONS.get(text.removeprefix(SESSION_ENDED), "other")


def note_loss(recipe: names.Recipe, reason: str) -> None:
    """Count a lost grant, or an expired session."""
    seen = telemetry()
    if seen is not None and seen.instruments is not None:
        attributes = {names.RECIPE: recipe.name, names.REASON: reason_of(reason)}
        seen.instruments.losses.add(1, attributes)


def note_overrun(recipe: names.Recipe) -> None:
    """Count work that outlived what it was done under."""
    seen = telemetry()
    if seen is not None and seen.instruments is not None:
        seen.instruments.overruns.add(1, {names.RECIPE: recipe.name})


def note_renewal(seconds: float | None) -> None:
    """Count a renewal that was confirmed after ``seconds``; None: it was refused, or not answered in time."""
    seen = telemetry()
    if seen is None or seen.instruments is None:
        return
    outcome = "failed" if seconds is None else "ok"
    seen.instruments.renewals.add(1, {names.OUTCOME: outcome})
    if seconds is not None:
        seen.instruments.renewal_times.record(seconds)


def note_events(count: int, revisions_behind: int) -> None:
    """Count the events of one message of a watch, and how far the store was ahead of them."""
    seen = telemetry()
    if seen is not None and seen.instruments is not None:
        seen.instruments.events.add(count)
        seen.instruments.lag.record(max(0, revisions_behind))


def note_connection(event: Literal["opened", "failed", "lost"], address: Address) -> None:
    """Count what became of a connection."""
    seen = telemetry()
    if seen is not None and seen.instruments is not None:
        seen.instruments.connections.add(1, {names.EVENT: event, **place(address)})


def note_cleanup(
    recipe: names.Recipe, cleanup: Literal["release", "abandon"], *, done: bool
) -> None:
    """Count an entry that was taken out of the line, or left to the end of its lease."""
    seen = telemetry()
    if seen is not None and seen.instruments is not None:
        attributes = {
            names.RECIPE: recipe.name,
            names.CLEANUP: cleanup,
            names.OUTCOME: "done" if done else "left",
        }
        seen.instruments.cleanups.add(1, attributes)
