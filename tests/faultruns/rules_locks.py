"""Locks and elections: who says that it holds something, holds it alone, and later than those before."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise

from tests.faultruns.lines import History, Line
from tests.faultruns.rules import Finding
from tests.faultruns.scene import WORKERS
from tests.faultruns.work_locks import PERMITS

_WRITES = "w"


def check_exclusive(history: History, recipe: str) -> list[Finding]:
    """Judge what only one may hold, or one writer or many readers."""
    found = check_fences(history, recipe)
    for name, holds in _by_name(history, recipe).items():
        active: list[Line] = []
        for hold in holds:
            active = [other for other in active if other.number("until") > hold.number("start")]
            found += [
                Finding(recipe, "overlap", f"{name}: {_shown(other)} and {_shown(hold)}")
                for other in active
                if _WRITES in {other.data["mode"], hold.data["mode"]}
            ]
            active.append(hold)
        found += _check_tokens(recipe, name, holds)
    return found


def check_semaphore(history: History, recipe: str) -> list[Finding]:
    """Judge that there are never more permits in use than there are."""
    found: list[Finding] = []
    for name, holds in _by_name(history, recipe).items():
        active: list[Line] = []
        for hold in holds:
            active = [other for other in active if other.number("until") > hold.number("start")]
            active.append(hold)
            if sum(other.whole("permits") for other in active) > PERMITS:
                shown = ", ".join(_shown(other) for other in active)
                found.append(Finding(recipe, "overlap", f"{name}: too many permits: {shown}"))
        found += _check_tokens(recipe, name, holds)
    return found


def check_fences(history: History, recipe: str) -> list[Finding]:
    """Judge the writes under tokens."""
    found = [
        Finding(
            recipe,
            "fence",
            f"a valid grant of {w.data['name']} was refused: token {w.data['token']}",
        )
        for w in history.of(recipe, "outside")
        if w.data["sure"] and not w.data["taken"]
    ]
    valid_until: dict[int, float] = defaultdict(float)
    for hold in history.of(recipe, "held"):
        token = hold.whole("token")
        valid_until[token] = max(valid_until[token], hold.number("until"))
    inside = sorted(history.of(recipe, "inside"), key=lambda line: line.whole("revision"))
    highest: dict[str, int] = defaultdict(int)
    for write in inside:
        name, token = write.text("name"), write.whole("token")
        if not write.data["done"]:
            if write.t < valid_until[token]:
                text = f"token {token} of {name} was gone from the store while it was valid"
                found.append(Finding(recipe, "guard", text))
            continue
        if token < highest[name]:
            text = f"token {token} wrote {name} after token {highest[name]}"
            found.append(Finding(recipe, "guard", text))
        highest[name] = max(highest[name], token)
    return found


def _by_name(history: History, recipe: str) -> dict[str, list[Line]]:
    named: dict[str, list[Line]] = defaultdict(list)
    for hold in history.of(recipe, "held"):
        if hold.number("until") > hold.number("start"):
            for name in hold.data["names"]:
                named[str(name)].append(hold)
    return {
        name: sorted(holds, key=lambda hold: hold.number("start")) for name, holds in named.items()
    }


def _check_tokens(recipe: str, name: str, holds: list[Line]) -> list[Finding]:
    """Who asked when another held it already has a higher token than that one."""
    found: list[Finding] = []
    highest, place = 0, 0
    for hold in sorted(holds, key=lambda line: line.number("asked")):
        while place < len(holds) and holds[place].number("start") <= hold.number("asked"):
            highest = max(highest, holds[place].whole("token"))
            place += 1
        if hold.whole("token") <= highest:
            text = f"{name}: {_shown(hold)} is not above token {highest}, which was granted before"
            found.append(Finding(recipe, "token", text))
    return found


def _shown(hold: Line) -> str:
    return (
        f"worker {hold.worker} ({hold.data['mode']}, token {hold.data['token']},"
        f" {hold.number('start'):.3f} to {hold.number('until'):.3f})"
    )


# Elections.


def check_observers(history: History, recipe: str) -> list[Finding]:
    """Judge what those saw who looked on at the elections."""
    found: list[Finding] = []
    for contest in ("election", "election_run"):
        seen = [line for line in history.of(recipe, "saw") if line.data["of"] == contest]
        for worker in range(WORKERS):
            own = [line for line in seen if line.worker == worker]
            found += _check_order(recipe, f"{contest}, worker {worker}", own)
        found += _check_sightings(history, recipe, contest, seen)
    return found


def _check_order(recipe: str, who: str, seen: list[Line]) -> list[Finding]:
    found: list[Finding] = []
    places = [(line.whole("token"), line.whole("revision")) for line in seen]
    for before, after in pairwise(places):
        if before == after:
            found.append(Finding(recipe, "repeated", f"{who}: {after} twice"))
    leaders = [place for place in places if place[0]]
    for before, after in pairwise(leaders):
        # After a time without a leader the same one cannot come back either.
        if after < before:
            found.append(Finding(recipe, "backwards", f"{who}: {after} behind {before}"))
    if places and places[-1][0]:
        found.append(Finding(recipe, "stale", f"{who}: still sees {places[-1]} at the end"))
    return found


def _check_sightings(
    history: History, recipe: str, contest: str, seen: list[Line]
) -> list[Finding]:
    found: list[Finding] = []
    first_seen: dict[int, float] = {}
    values: dict[int, tuple[str, str]] = {}
    proposed = {line.text("value"): line.t for line in history.of(contest, "proposed")}
    for line in seen:
        token, revision = line.whole("token"), line.whole("revision")
        if not token:
            continue
        shown = (line.text("key"), line.text("value"))
        if values.setdefault(revision, shown) != shown:
            found.append(
                Finding(
                    recipe, "disagree", f"{contest}: {revision} is {values[revision]} and {shown}"
                )
            )
        if proposed.get(shown[1], line.t + 1) > line.t:
            found.append(
                Finding(recipe, "invented", f"{contest}: nobody had proposed {shown[1]!r}")
            )
        first_seen.setdefault(token, line.t)
    for hold in history.of(contest, "held"):
        for token, at in first_seen.items():
            if token > hold.whole("token") and hold.number("start") < at < hold.number("until"):
                text = (
                    f"{contest}: token {token} was seen at {at:.3f} while {_shown(hold)} was valid"
                )
                found.append(Finding(recipe, "deposed", text))
    return found
