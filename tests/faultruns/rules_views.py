"""Services, groups, configurations, topics and caches: nothing that never was, nothing missing at the end."""

from __future__ import annotations

from itertools import pairwise

from tests.faultruns.lines import History, Line
from tests.faultruns.rules import Finding, is_denied
from tests.faultruns.scene import WORKERS

_ALL = [f"w{number}:1" for number in range(WORKERS)]


def _own(lines: list[Line], worker: int) -> list[Line]:
    return [line for line in lines if line.worker == worker]


def check_listing(history: History, recipe: str) -> list[Finding]:
    """A view that was full is never empty, and at the end all are listed everywhere."""
    found: list[Finding] = []
    views, listed = history.of(recipe, "view"), history.of(recipe, "listed")
    for worker in range(WORKERS):
        is_full = False
        for line in _own(views, worker):
            is_full = is_full or line.data["ids"] == _ALL
            if is_full and not line.data["ids"]:
                found.append(
                    Finding(recipe, "empty", f"worker {worker} saw nobody at {line.t:.3f}")
                )
            strange = set(line.data["ids"]) - set(_ALL)
            if strange:
                found.append(Finding(recipe, "invented", f"worker {worker} saw {sorted(strange)}"))
        last = _own(listed, worker)
        if not last or last[-1].data["ids"] != _ALL:
            seen = last[-1].data["ids"] if last else "nothing"
            found.append(Finding(recipe, "missing", f"worker {worker} saw {seen} at the end"))
    return found


def check_config(history: History, recipe: str) -> list[Finding]:
    """Only what was published, never backwards, and at the end the newest."""
    found: list[Finding] = []
    published = {line.text("value"): line for line in history.of(recipe, "published")}
    values: dict[int, str] = {
        line.whole("revision"): line.text("value")
        for line in published.values()
        if line.data["revision"] is not None
    }
    newest = max(values, default=0)
    sightings = history.of(recipe, "saw", "final")
    for line in sightings:
        value, revision = line.text("value"), line.whole("revision")
        if value == "none" and revision <= min(values, default=0):
            continue
        source = published.get(value)
        if source is None or source.number("asked") > line.t:
            found.append(
                Finding(recipe, "invented", f"{value!r} was seen before anybody published it")
            )
        elif is_denied(history, source, "publish"):
            found.append(
                Finding(
                    recipe, "denied", f"{value!r} was seen, and its publication said that it failed"
                )
            )
        if values.setdefault(revision, value) != value:
            text = f"revision {revision} is {values[revision]!r} and {value!r}"
            found.append(Finding(recipe, "disagree", text))
    for worker in range(WORKERS):
        seen = [line.whole("revision") for line in _own(history.of(recipe, "saw"), worker)]
        found += [
            Finding(recipe, "backwards", f"worker {worker} saw {after} after {before}")
            for before, after in pairwise(seen)
            if after < before
        ]
    final = history.final(recipe)
    if final is None or int(final["revision"]) < newest:
        found.append(Finding(recipe, "lost", f"{final} at the end, and {newest} was confirmed"))
    return found


def check_topic(history: History, recipe: str) -> list[Finding]:
    """All durable subscribers read the same in the same order, and miss nothing without being told."""
    found: list[Finding] = []
    published = {line.text("value"): line for line in history.of(recipe, "published")}
    reads = history.of(recipe, "read")
    places: dict[str, int] = {}
    values: dict[int, str] = {}
    for line in reads:
        value, revision = line.text("value"), line.whole("revision")
        source = published.get(value)
        if source is None:
            found.append(Finding(recipe, "invented", f"nobody published {value}"))
        elif is_denied(history, source, "publish"):
            found.append(
                Finding(
                    recipe, "denied", f"{value} was read, and its publication said that it failed"
                )
            )
        if places.setdefault(value, revision) != revision:
            found.append(Finding(recipe, "twice", f"{value} is at {places[value]} and {revision}"))
        if values.setdefault(revision, value) != value:
            found.append(
                Finding(recipe, "disagree", f"{revision} is {values[revision]} and {value}")
            )
    for line in published.values():
        told = line.data["revision"]
        if told is not None and places.get(line.text("value"), told) != told:
            text = f"{line.data['value']} was published at {told} and read at {places[line.text('value')]}"
            found.append(Finding(recipe, "disagree", text))
    for worker in range(WORKERS):
        found += _check_reader(history, recipe, worker)
    return found


def _check_reader(history: History, recipe: str, worker: int) -> list[Finding]:
    found: list[Finding] = []
    reads = _own(history.of(recipe, "read"), worker)
    for before, after in pairwise(reads):
        same = before.data["life"] == after.data["life"]
        if same and after.whole("revision") <= before.whole("revision"):
            text = f"worker {worker} read {after.data['revision']} after {before.data['revision']}"
            found.append(Finding(recipe, "order", text))
    gaps = [(g.whole("start"), g.whole("end")) for g in _own(history.of(recipe, "gap"), worker)]
    seen = {line.whole("revision") for line in reads}
    wanted = {
        line.whole("revision")
        for line in history.of(recipe, "published")
        if line.data["revision"] is not None
    }
    missing = sorted(
        each for each in wanted - seen if not any(start < each < end for start, end in gaps)
    )
    if missing:
        found.append(Finding(recipe, "missing", f"worker {worker} never read {missing[:10]}"))
    return found


def check_cache(history: History, recipe: str) -> list[Finding]:
    """Never backwards, with one's own writes, and at the end equal to the store."""
    found: list[Finding] = []
    found += [
        Finding(
            recipe,
            "own",
            f"worker {line.worker} wrote {line.data['put']} and saw {line.data['seen']}",
        )
        for line in history.of(recipe, "own")
        if line.whole("seen") < line.whole("put")
    ]
    final = history.final(recipe)
    for worker in range(WORKERS):
        views = [line.whole("revision") for line in _own(history.of(recipe, "view"), worker)]
        found += [
            Finding(recipe, "backwards", f"worker {worker} was at {after} after {before}")
            for before, after in pairwise(views)
            if after < before
        ]
        copies = _own(history.of(recipe, "copy"), worker)
        if not copies or final is None or copies[-1].data["there"] != final["there"]:
            shown = copies[-1].data["there"] if copies else "no copy"
            text = f"worker {worker} has {shown}, the store {final}"
            found.append(Finding(recipe, "differs", text))
    return found
