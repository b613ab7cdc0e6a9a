"""Queues: each item at most once, none lost, in order; jobs: each effect exactly once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from tests.faultruns.lines import History, Line
from tests.faultruns.rules import Finding, is_denied, said

_CLOCK_S = 0.002
"""Times of items are whole milliseconds."""
Place = tuple[float, int]


def check_queue(history: History, recipe: str) -> list[Finding]:
    """First in, first out."""
    return [
        *_check_hand_off(history, recipe),
        *_check_order(history, recipe, lambda _, got: (0.0, got.whole("revision"))),
    ]


def check_priority_queue(history: History, recipe: str) -> list[Finding]:
    """The most urgent first, and first in, first out among those."""
    return [
        *_check_hand_off(history, recipe),
        *_check_order(
            history, recipe, lambda put, got: (put.number("rank"), got.whole("revision"))
        ),
    ]


def check_delay_queue(history: History, recipe: str) -> list[Finding]:
    """By their times, and none before it."""
    due = {line.text("value"): line.number("rank") for line in history.of(recipe, "put")}
    early = [
        Finding(
            recipe,
            "early",
            f"{got.data['value']} came {due[got.text('value')] - got.number('wall'):.3f} s early",
        )
        for got in history.of(recipe, "got")
        if got.number("wall") < due.get(got.text("value"), 0.0) - _CLOCK_S
    ]
    return [
        *early,
        *_check_hand_off(history, recipe),
        *_check_order(history, recipe, lambda put, _: (put.number("rank"), 0)),
    ]


def _check_hand_off(history: History, recipe: str) -> list[Finding]:
    found: list[Finding] = []
    puts = {line.text("value"): line for line in history.of(recipe, "put")}
    counts = Counter(line.text("value") for line in history.of(recipe, "got"))
    for value, count in counts.items():
        if count > 1:
            found.append(Finding(recipe, "twice", f"{value} was taken {count} times"))
        if value not in puts:
            found.append(Finding(recipe, "invented", f"nobody put {value}"))
        elif is_denied(history, puts[value], "put"):
            found.append(
                Finding(recipe, "denied", f"{value} was taken, and its put said that it failed")
            )
    lost = [value for value, line in puts.items() if line.data["known"] and value not in counts]
    doubts = sum(
        line.data["type"] == "AmbiguousResult" and line.data["what"] == "get"
        for line in history.of(recipe, "error")
    )
    if len(lost) > doubts:
        text = f"{len(lost)} items were lost, and {doubts} takes were in doubt: {lost[:10]}"
        found.append(Finding(recipe, "lost", text))
    final = history.final(recipe)
    if final is None or final["size"]:
        found.append(Finding(recipe, "left", f"what is left at the end: {final}"))
    return found


def _check_order(
    history: History, recipe: str, place: Callable[[Line, Line], Place]
) -> list[Finding]:
    """Nobody takes an item while one that comes before it is there.

    An item is taken at some time between the taker's item before (a call that ends without one leaves its take to
    the next) and its arrival.
    """
    puts = {line.text("value"): line for line in history.of(recipe, "put") if line.data["known"]}
    taken: list[tuple[Place, float, Line, Line]] = []
    last: dict[int, float] = {}
    for got in history.of(recipe, "got"):
        put = puts.get(got.text("value"))
        earliest, last[got.worker] = last.get(got.worker, 0.0), got.t
        # One that was taken by a call which was given up has gone to the end of its line.
        if put is not None and put.data["revision"] == got.data["revision"]:
            taken.append((place(put, got), earliest, put, got))
    return [
        Finding(
            recipe, "order", f"{first[3].data['value']} was taken before {other[3].data['value']}"
        )
        for first in taken
        for other in taken
        if other[0] < first[0]
        and first[3].t <= other[1]
        and (other[2].t < first[1] or other[3].whole("revision") < first[3].whole("revision"))
    ]


def check_work_queue(history: History, recipe: str) -> list[Finding]:
    """Each job is done, and its effect is there exactly once."""
    found: list[Finding] = []
    final = history.final(recipe)
    if final is None:
        return [Finding(recipe, "left", "nobody looked at the end")]
    puts = {line.text("value"): line for line in history.of(recipe, "put")}
    effects = {(str(value), int(token)) for value, token in final["effects"]}
    counts = Counter(value for value, _ in effects)
    for value, count in counts.items():
        if count > 1:
            found.append(Finding(recipe, "twice", f"the effect of {value} is there {count} times"))
        if value not in puts:
            found.append(Finding(recipe, "invented", f"nobody put {value}"))
        elif is_denied(history, puts[value], "put"):
            found.append(
                Finding(recipe, "denied", f"{value} was done, and its put said that it failed")
            )
    found += [
        Finding(recipe, "lost", f"{value} was never done")
        for value, line in puts.items()
        if line.data["known"] and value not in counts
    ]
    for line in history.of(recipe, "acked"):
        effect = (line.text("value"), line.whole("token"))
        if line.data["known"] and effect not in effects:
            found.append(Finding(recipe, "lost", f"{effect} was acknowledged without its effect"))
        if effect in effects and said(history, line, "ack") == "ClaimLost":
            found.append(
                Finding(recipe, "refused", f"{effect} has its effect, and its claim was lost")
            )
    if final["items"] or final["dead"]:
        found.append(Finding(recipe, "left", f"{final['items']} items, {final['dead']} dead"))
    return found
