"""What every rule uses, and the rules for all recipes: errors, hangs, ends, and that something was done at all."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from tests.faultruns.lines import History, Line
from tests.faultruns.scene import WORKERS

PER_MINUTE = 12.0
"""So many successes of each recipe, of all workers together: a fifth of what a quiet run has."""
SILENT_S = 60.0
"""No recipe may be without a success for longer: an outage, and a lease (15 s) that has to end behind it."""

_STORE = frozenset({"Unavailable", "CoordTimeout"})
_WRITE = _STORE | {"AmbiguousResult"}
_ENDED = frozenset({"SessionExpired"})
_NOTHING: frozenset[str] = frozenset()

# Which errors a call may end with, as its documentation says: by recipe and call, else by call, else by recipe.
_ALLOWED: dict[str, frozenset[str]] = {
    "session": _STORE | _ENDED,
    "guarded write": _WRITE,
    "release": _NOTHING,
    "close": _NOTHING,
    "workload": _NOTHING,
    "mutex": _ENDED | {"LockTimeout", "LockLost"},
    "single_key": _ENDED | {"LockTimeout", "LockLost"},
    "multi_lock": _ENDED | {"LockTimeout", "LockLost"},
    "rwlock": _ENDED | {"LockTimeout", "LockLost"},
    "semaphore": _ENDED | {"SemaphoreTimeout", "PermitLost"},
    "election": _ENDED | {"CampaignTimeout", "LeadershipLost"},
    "election proclaim": _WRITE | {"LeadershipLost"},
    "election_run": _NOTHING,
    "observe": _NOTHING,
    "barrier": _ENDED | _WRITE | {"BarrierTimeout", "BarrierHeld"},
    "barrier release": _WRITE,
    "barrier wait": frozenset({"BarrierTimeout"}),
    "double_barrier": _ENDED | {"BarrierTimeout", "BarrierLost"},
    "latch": _WRITE | {"LatchTimeout"},
    "latch remaining": frozenset({"LatchTimeout", "Unavailable"}),
    "latch wait": frozenset({"LatchTimeout"}),
    "queue get": frozenset({"AmbiguousResult"}),
    "priority_queue get": frozenset({"AmbiguousResult"}),
    "delay_queue get": frozenset({"AmbiguousResult"}),
    "work_queue receive": _NOTHING,
    "work_queue ack": _WRITE | {"ClaimLost"},
    "work_queue nack": _WRITE | {"ClaimLost"},
    "stm": _WRITE | {"StmTimeout", "StmConflict"},
    "rate_limiter": _WRITE | {"RateLimitTimeout"},
    "registry": frozenset({"ServiceTimeout"}),
    "membership": frozenset({"MembershipTimeout"}),
    "cache wait_revision": frozenset({"CacheTimeout"}),
    "cache sync": _STORE | {"CacheTimeout"},
    "config wait_revision": frozenset({"CoordTimeout"}),
    "registry count_down": _WRITE | {"LatchTimeout"},
    "registry wait": frozenset({"LatchTimeout"}),
    "membership count_down": _WRITE | {"LatchTimeout"},
    "membership wait": frozenset({"LatchTimeout"}),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """A promise that was broken, or a run that proves nothing."""

    recipe: str
    rule: str
    text: str


def allowed(recipe: str, what: str) -> frozenset[str]:
    """Return the names of the errors that a call may raise."""
    for name in (f"{recipe} {what}", what, recipe):
        if name in _ALLOWED:
            return _ALLOWED[name]
    return _WRITE


def said(history: History, line: Line, what: str) -> str:
    """Return the error that ended the call which ``line`` is about; empty if there was none."""
    for error in history.of(line.recipe, "error"):
        is_it = error.worker == line.worker and error.data["what"] == what
        if is_it and line.number("asked") <= error.number("asked") and error.t <= line.t:
            return error.text("type")
    return ""


def is_denied(history: History, line: Line, what: str) -> bool:
    """Whether the call of ``line`` failed with an error that says that nothing was done."""
    return said(history, line, what) in _STORE


def check_common(history: History, recipe: str) -> list[Finding]:
    """Judge what every recipe must keep to."""
    return [
        *_check_errors(history, recipe),
        *_check_ends(history, recipe),
        *_check_successes(history, recipe),
    ]


def _check_errors(history: History, recipe: str) -> list[Finding]:
    found = [
        Finding(
            recipe,
            "error",
            f"worker {e.worker}: {e.data['what']}: {e.data['type']}: {e.data['text']}",
        )
        for e in history.of(recipe, "error")
        if e.text("type") not in allowed(recipe, e.text("what"))
    ]
    return found + [
        Finding(
            recipe,
            "hang",
            f"worker {line.worker}: {line.data['what']} did not end within {line.data['within']} s and some",
        )
        for line in history.of(recipe, "hang")
    ]


def _check_ends(history: History, recipe: str) -> list[Finding]:
    over = {line.worker for line in history.of(recipe, "over")}
    return [
        Finding(recipe, "hang", f"worker {worker}: the workload never ended")
        for worker in range(WORKERS)
        if worker not in over
    ]


def _check_successes(history: History, recipe: str) -> list[Finding]:
    begin, end = span(history)
    needed = max(1, int(PER_MINUTE * (end - begin) / 60))
    times = [line.t for line in history.of(recipe, "ok") if begin <= line.t]
    found: list[Finding] = []
    if len(times) < needed:
        found.append(
            Finding(recipe, "idle", f"{len(times)} successes, {needed} are too few already")
        )
    by_worker = {line.worker for line in history.of(recipe, "ok")}
    found += [
        Finding(recipe, "idle", f"worker {worker} had no success")
        for worker in range(WORKERS)
        if worker not in by_worker
    ]
    marks = [begin, *[t for t in times if t <= end], end]
    longest = max(after - before for before, after in pairwise(marks))
    if longest > SILENT_S:
        found.append(Finding(recipe, "silent", f"no success for {longest:.1f} s"))
    return found


def span(history: History) -> tuple[float, float]:
    """Return when the workers began, and when they were told to stop."""
    begins, stops = history.of("run", "begin"), history.of("run", "stop")
    last = history.lines[-1].t if history.lines else 0.0
    return (begins[0].t if begins else 0.0), (stops[0].t if stops else last)
