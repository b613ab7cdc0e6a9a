"""Each rule of the judge finds the history that breaks it, and has nothing against the one beside it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faultruns.judge import RULES, judge
from tests.faultruns.lines import RUNNER, History, Line, parse
from tests.faultruns.recipes import WORKLOADS
from tests.faultruns.report import times_after
from tests.faultruns.rules import check_common

_HERE = Path(__file__).parent
_ALL = ["w0:1", "w1:1", "w2:1"]


@dataclass(frozen=True)
class Case:
    """Lines that break a rule, and what makes them good: lines to add, and bad ones to leave out."""

    recipe: str
    rule: str
    bad: list[Line]
    good: list[Line]


def at(t: float, worker: int, kind: str, **data: object) -> Line:
    return Line(t, worker, "", kind, dict(data))


def held(worker: int, token: int, start: float, until: float, **more: object) -> Line:
    data = {"names": ["n"], "mode": "w", "permits": 1, "asked": start - 0.1, **more}
    return at(until, worker, "held", token=token, start=start, until=until, **data)


def saw(t: float, token: int, revision: int, value: str = "v", worker: int = 0) -> Line:
    return at(t, worker, "saw", of="election", token=token, revision=revision, value=value, key="k")


def put(t: float, value: str, rank: float = 0, *, known: bool = True, worker: int = 0) -> Line:
    revision = {"a": 5, "b": 6, "c": 4, "x": 3}[value]
    data = {"asked": t - 0.1, "rank": rank, "known": known, "revision": revision}
    return at(t, worker, "put", value=value, **data)


def got(t: float, value: str, revision: int, worker: int = 0, wall: float = 1e9) -> Line:
    return at(
        t, worker, "got", value=value, asked=t - 0.1, revision=revision, returned=False, wall=wall
    )


def added(t: float, value: int | None, asked: float | None = None, worker: int = 0) -> Line:
    return at(t, worker, "added", value=value, asked=t - 0.1 if asked is None else asked, total=500)


def failed(t: float, what: str, kind: str, worker: int = 0) -> Line:
    return at(t, worker, "error", what=what, asked=t, type=kind, text="")


def final(**data: object) -> Line:
    return at(100, RUNNER, "final", **data)


def published(t: float, value: str, revision: int | None, worker: int = 0) -> Line:
    return at(t, worker, "published", value=value, asked=t - 0.1, revision=revision)


def read(t: float, value: str, revision: int, worker: int = 0, life: int = 1) -> Line:
    return at(t, worker, "read", value=value, revision=revision, life=life)


def write(t: float, token: int, revision: int, *, done: bool = True) -> Line:
    return at(t, 0, "inside", name="n", token=token, revision=revision, done=done)


EMPTY = final(size=0)
EVERYWHERE = [at(90, worker, "listed", ids=_ALL) for worker in range(3)]
OBSERVED = [at(0, 0, "proposed", value="v")]
JOBS = final(effects=[["a", 5]], items=0, dead=0)
DOUBLE = [at(2, worker, "entered", asked=1.0, round=7) for worker in range(3)]


def left(worker: int, t: float, leaving: float) -> Line:
    return at(t, worker, "left", round=7, entered=2.0, leaving=leaving, sure=True, done=True)


def arrived(worker: int, t: float) -> Line:
    return at(t, worker, "arrived", asked=t - 0.1, known=True)


CASES = [
    # Locks.
    Case(
        "mutex",
        "overlap",
        [held(0, 5, 1, 3), held(1, 6, 2, 4)],
        [held(0, 5, 1, 3), held(1, 6, 3, 4)],
    ),
    Case(
        "rwlock",
        "overlap",
        [held(0, 5, 1, 3, mode="r"), held(1, 6, 2, 4)],
        [held(0, 5, 1, 3, mode="r"), held(1, 6, 2, 4, mode="r")],
    ),
    Case(
        "multi_lock",
        "overlap",
        [held(0, 5, 1, 3, names=["a", "b"]), held(1, 6, 2, 4, names=["b", "c"])],
        [held(0, 5, 1, 3, names=["a"]), held(1, 6, 2, 4, names=["b", "c"])],
    ),
    Case(
        "election",
        "token",
        [held(0, 5, 1, 2), held(1, 5, 3, 4)],
        [held(0, 5, 1, 2), held(1, 6, 3, 4)],
    ),
    Case(
        "mutex",
        "fence",
        [at(1, 0, "outside", name="n", token=5, taken=False, sure=True)],
        [at(1, 0, "outside", name="n", token=5, taken=False, sure=False)],
    ),
    Case("mutex", "guard", [write(1, 6, 10), write(2, 5, 11)], [write(1, 5, 10), write(2, 6, 11)]),
    Case(
        "mutex",
        "guard",
        [held(0, 5, 1, 3), write(2, 5, 10, done=False)],
        [held(0, 5, 1, 3), write(4, 5, 10, done=False)],
    ),
    Case(
        "semaphore",
        "overlap",
        [held(0, 5, 1, 3, permits=3), held(1, 6, 2, 4, permits=2)],
        [held(0, 5, 1, 3, permits=2), held(1, 6, 2, 4, permits=2)],
    ),
    Case(
        "semaphore",
        "token",
        [held(0, 5, 1, 2), held(1, 4, 3, 4)],
        [held(0, 5, 1, 2), held(1, 6, 1.5, 4)],
    ),
    # Those who look on.
    Case(
        "observe",
        "repeated",
        [*OBSERVED, saw(1, 5, 5), saw(2, 5, 5), saw(9, 0, 0)],
        [*OBSERVED, saw(1, 5, 5), saw(2, 5, 6), saw(9, 0, 0)],
    ),
    Case(
        "observe",
        "backwards",
        [*OBSERVED, saw(1, 6, 6), saw(2, 0, 0), saw(3, 5, 5), saw(9, 0, 0)],
        [*OBSERVED, saw(1, 5, 5), saw(2, 0, 0), saw(3, 6, 6), saw(9, 0, 0)],
    ),
    Case("observe", "stale", [*OBSERVED, saw(1, 5, 5)], [*OBSERVED, saw(1, 5, 5), saw(9, 0, 0)]),
    Case(
        "observe",
        "disagree",
        [
            *OBSERVED,
            at(0, 0, "proposed", value="w"),
            saw(1, 5, 5),
            saw(2, 0, 0),
            saw(1, 5, 5, "w", 1),
            saw(2, 0, 0, worker=1),
        ],
        [*OBSERVED, saw(1, 5, 5), saw(2, 0, 0), saw(1, 5, 5, worker=1), saw(2, 0, 0, worker=1)],
    ),
    Case(
        "observe", "invented", [saw(1, 5, 5), saw(2, 0, 0)], [*OBSERVED, saw(1, 5, 5), saw(2, 0, 0)]
    ),
    Case(
        "observe",
        "deposed",
        [*OBSERVED, held(0, 5, 1, 4), saw(3, 6, 6), saw(9, 0, 0)],
        [*OBSERVED, held(0, 5, 1, 2), saw(3, 6, 6), saw(9, 0, 0)],
    ),
    # Gates.
    Case(
        "barrier",
        "early",
        [at(4, 0, "closed", start=1, until=3), at(2.5, 1, "passed", asked=2)],
        [at(4, 0, "closed", start=1, until=3), at(3.5, 1, "passed", asked=2)],
    ),
    Case("double_barrier", "early", DOUBLE[:2], DOUBLE),
    Case(
        "double_barrier",
        "early",
        [*DOUBLE, left(0, 3, 2.5), left(1, 4, 3.5), left(2, 4, 3.5)],
        [*DOUBLE, left(0, 4, 2.5), left(1, 4, 3.5), left(2, 4, 3.5)],
    ),
    Case(
        "latch",
        "early",
        [
            *[arrived(w, 1) for w in range(3)],
            at(3, 0, "reset", asked=2, done=True),
            arrived(0, 4),
            arrived(1, 4),
            at(5, 0, "passed", asked=4),
        ],
        [
            *[arrived(w, 1) for w in range(3)],
            at(3, 0, "reset", asked=2, done=True),
            *[arrived(w, 4) for w in range(3)],
            at(5, 0, "passed", asked=4),
        ],
    ),
    # Queues.
    Case(
        "queue",
        "twice",
        [put(1, "a"), got(2, "a", 5), got(3, "a", 5), EMPTY],
        [put(1, "a"), got(2, "a", 5), EMPTY],
    ),
    Case("queue", "invented", [got(2, "a", 5), EMPTY], [put(1, "a"), got(2, "a", 5), EMPTY]),
    Case(
        "queue",
        "denied",
        [put(1, "a", known=False), failed(0.95, "put", "Unavailable"), got(2, "a", 5), EMPTY],
        [put(1, "a", known=False), failed(0.95, "put", "AmbiguousResult"), got(2, "a", 5), EMPTY],
    ),
    Case(
        "queue",
        "lost",
        [put(1, "a"), EMPTY],
        [put(1, "a"), failed(2, "get", "AmbiguousResult"), EMPTY],
    ),
    Case(
        "queue",
        "left",
        [put(1, "a"), got(2, "a", 5), final(size=1)],
        [put(1, "a"), got(2, "a", 5), EMPTY],
    ),
    Case(
        "queue",
        "order",
        [put(1, "a"), put(2, "b"), got(3, "b", 6), got(4, "a", 5), EMPTY],
        [put(1, "a"), put(2, "b"), got(3, "a", 5), got(4, "b", 6), EMPTY],
    ),
    Case(
        "priority_queue",
        "order",
        [
            put(1, "c", 1),
            got(1.1, "c", 4),
            put(2, "a", 2),
            put(2.5, "b", 1),
            got(3, "x", 3, 1),
            got(4, "a", 5, 1),
            got(5, "b", 6, 1),
            put(0, "x", 1),
            EMPTY,
        ],
        [put(2, "a", 2), put(2.5, "b", 1), got(3, "b", 6, 1), got(4, "a", 5, 1), EMPTY],
    ),
    Case(
        "delay_queue",
        "early",
        [put(1, "a", 50.0), got(2, "a", 5, wall=49.9), EMPTY],
        [put(1, "a", 50.0), got(2, "a", 5, wall=50.0), EMPTY],
    ),
    Case(
        "work_queue",
        "twice",
        [put(1, "a"), final(effects=[["a", 5], ["a", 6]], items=0, dead=0)],
        [put(1, "a"), JOBS],
    ),
    Case("work_queue", "invented", [JOBS], [put(1, "a"), JOBS]),
    Case(
        "work_queue",
        "denied",
        [put(1, "a", known=False), failed(0.95, "put", "CoordTimeout"), JOBS],
        [put(1, "a", known=False), failed(0.95, "put", "AmbiguousResult"), JOBS],
    ),
    Case("work_queue", "lost", [put(1, "a"), put(1, "b"), JOBS], [put(1, "a"), JOBS]),
    Case(
        "work_queue",
        "lost",
        [put(1, "a"), at(2, 0, "acked", value="a", token=4, known=True), JOBS],
        [put(1, "a"), at(2, 0, "acked", value="a", token=5, known=True), JOBS],
    ),
    Case(
        "work_queue",
        "refused",
        [
            put(1, "a"),
            failed(2, "ack", "ClaimLost"),
            at(2, 0, "acked", value="a", token=5, known=False, asked=1.9),
            JOBS,
        ],
        [
            put(1, "a"),
            failed(2, "ack", "AmbiguousResult"),
            at(2, 0, "acked", value="a", token=5, known=False, asked=1.9),
            JOBS,
        ],
    ),
    Case(
        "work_queue",
        "left",
        [put(1, "a"), final(effects=[["a", 5]], items=1, dead=0)],
        [put(1, "a"), JOBS],
    ),
    # Numbers.
    Case("counter", "sum", [added(1, 1), final(value=2)], [added(1, 1), final(value=1)]),
    Case(
        "counter",
        "sum",
        [added(1, None), failed(0.95, "add", "Unavailable"), final(value=1)],
        [added(1, None), failed(0.95, "add", "AmbiguousResult"), final(value=1)],
    ),
    Case(
        "counter",
        "twice",
        [added(1, 1), added(2, 1), final(value=2)],
        [added(1, 1), added(2, 2), final(value=2)],
    ),
    Case(
        "counter",
        "order",
        [added(1, 2), added(2, 1), final(value=2)],
        [added(1, 2), added(2, 1, 0.5), final(value=2)],
    ),
    Case("sharded_counter", "sum", [added(1, 0), final(value=0)], [added(1, 0), final(value=1)]),
    Case("sharded_counter", "left", [added(1, 0)], [added(1, 0), final(value=1)]),
    Case(
        "stm",
        "total",
        [added(1, 1), final(value=1, total=499)],
        [added(1, 1), final(value=1, total=500)],
    ),
    Case(
        "id_allocator",
        "twice",
        [at(1, 0, "id", value=1), at(2, 1, "id", value=1)],
        [at(1, 0, "id", value=1), at(2, 1, "id", value=2)],
    ),
    Case(
        "id_allocator",
        "order",
        [at(1, 0, "id", value=2), at(2, 0, "id", value=1)],
        [at(1, 0, "id", value=2), at(2, 1, "id", value=1)],
    ),
    Case(
        "rate_limiter",
        "rate",
        [at(1, 0, "permit", asked=1) for _ in range(5)],
        [at(1, 0, "permit", asked=1) for _ in range(4)],
    ),
    # Views.
    Case(
        "registry",
        "empty",
        [at(1, 0, "view", ids=_ALL), at(2, 0, "view", ids=[]), *EVERYWHERE],
        [at(1, 0, "view", ids=[]), at(2, 0, "view", ids=_ALL), *EVERYWHERE],
    ),
    Case(
        "membership",
        "invented",
        [at(1, 0, "view", ids=["x"]), *EVERYWHERE],
        [at(1, 0, "view", ids=["w0:1"]), *EVERYWHERE],
    ),
    Case("membership", "missing", EVERYWHERE[:2], EVERYWHERE),
    Case(
        "config",
        "invented",
        [at(1, 0, "saw", value="a", revision=5), final(value="none", revision=9)],
        [
            at(1, 0, "saw", value="a", revision=5),
            published(0.5, "a", 5),
            final(value="a", revision=9),
        ],
    ),
    Case(
        "config",
        "denied",
        [
            published(1, "a", None),
            failed(0.95, "publish", "Unavailable"),
            final(value="a", revision=9),
        ],
        [
            published(1, "a", None),
            failed(0.95, "publish", "AmbiguousResult"),
            final(value="a", revision=9),
        ],
    ),
    Case(
        "config",
        "disagree",
        [published(1, "a", 5), published(2, "b", 6), final(value="a", revision=6)],
        [published(1, "a", 5), published(2, "b", 6), final(value="b", revision=6)],
    ),
    Case(
        "config",
        "backwards",
        [
            published(1, "a", 5),
            published(2, "b", 6),
            at(3, 0, "saw", value="b", revision=6),
            at(4, 0, "saw", value="a", revision=5),
            final(value="b", revision=6),
        ],
        [
            published(1, "a", 5),
            published(2, "b", 6),
            at(3, 0, "saw", value="a", revision=5),
            at(4, 0, "saw", value="b", revision=6),
            final(value="b", revision=6),
        ],
    ),
    Case(
        "config",
        "lost",
        [published(1, "a", 5), published(2, "b", 6), final(value="a", revision=5)],
        [published(1, "a", 5), published(2, "b", 6), final(value="b", revision=6)],
    ),
    Case("topic", "invented", [read(2, "a", 5)], [published(1, "a", None), read(2, "a", 5)]),
    Case(
        "topic",
        "denied",
        [published(1, "a", None), failed(0.95, "publish", "Unavailable"), read(2, "a", 5)],
        [published(1, "a", None), failed(0.95, "publish", "AmbiguousResult"), read(2, "a", 5)],
    ),
    Case(
        "topic",
        "twice",
        [published(1, "a", None), read(2, "a", 5), read(3, "a", 6)],
        [published(1, "a", None), read(2, "a", 5), read(3, "a", 5, life=2)],
    ),
    Case(
        "topic",
        "disagree",
        [published(1, "a", None), published(1, "b", None), read(2, "a", 5), read(3, "b", 5, 1)],
        [published(1, "a", None), published(1, "b", None), read(2, "a", 5), read(3, "b", 6, 1)],
    ),
    Case(
        "topic",
        "disagree",
        [published(1, "a", 4), *[read(2, "a", 5, worker) for worker in range(3)]],
        [published(1, "a", 5), *[read(2, "a", 5, worker) for worker in range(3)]],
    ),
    Case(
        "topic",
        "order",
        [published(1, "a", None), published(1, "b", None), read(2, "a", 6), read(3, "b", 5)],
        [
            published(1, "a", None),
            published(1, "b", None),
            read(2, "a", 6),
            read(3, "b", 5, life=2),
        ],
    ),
    Case(
        "topic",
        "missing",
        [published(1, "a", 5), read(2, "a", 5), read(2, "a", 5, 1)],
        [
            published(1, "a", 5),
            read(2, "a", 5),
            read(2, "a", 5, 1),
            at(2, 2, "gap", life=1, start=4, end=6),
        ],
    ),
    Case(
        "cache",
        "own",
        [at(1, 0, "own", put=5, seen=4), final(there={})]
        + [at(2, worker, "copy", there={}) for worker in range(3)],
        [at(1, 0, "own", put=5, seen=5), final(there={})]
        + [at(2, worker, "copy", there={}) for worker in range(3)],
    ),
    Case(
        "cache",
        "backwards",
        [at(1, 0, "view", revision=5), at(2, 0, "view", revision=4), final(there={})]
        + [at(2, worker, "copy", there={}) for worker in range(3)],
        [at(1, 0, "view", revision=4), at(2, 0, "view", revision=5), final(there={})]
        + [at(2, worker, "copy", there={}) for worker in range(3)],
    ),
    Case(
        "cache",
        "differs",
        [*[at(2, worker, "copy", there={}) for worker in range(3)], final(there={"k": ["v", 5]})],
        [
            *[at(2, worker, "copy", there={"k": ["v", 5]}) for worker in range(3)],
            final(there={"k": ["v", 5]}),
        ],
    ),
]


def history(recipe: str, lines: list[Line], more: list[Line] | None = None) -> History:
    named = [Line(line.t, line.worker, recipe, line.kind, line.data) for line in lines]
    # What elections did is looked at together with what was seen of them.
    aside = {"held", "proposed"} if recipe == "observe" else set[str]()
    named = [
        Line(each.t, each.worker, "election", each.kind, each.data) if each.kind in aside else each
        for each in named
    ]
    return History([*named, *(more or [])])


@pytest.mark.parametrize(
    "case", CASES, ids=[f"{c.recipe}-{c.rule}-{n}" for n, c in enumerate(CASES)]
)
def test_a_rule_finds_what_breaks_it(case: Case) -> None:
    rule = RULES[case.recipe]
    found = {each.rule for each in rule(history(case.recipe, case.bad), case.recipe)}
    assert case.rule in found
    assert rule(history(case.recipe, case.good), case.recipe) == []


def test_every_rule_has_its_case() -> None:
    covered: dict[str, set[str]] = {}
    for case in CASES:
        module = RULES[case.recipe].__module__.rpartition(".")[2]
        covered.setdefault(module, set()).add(case.rule)
    for path in sorted(_HERE.glob("rules_*.py")):
        written = set(re.findall(r'Finding\(\s*recipe,\s*"(\w+)"', path.read_text()))
        assert written, path
        assert written == covered[path.stem], path


def test_every_recipe_is_worked_and_judged() -> None:
    assert list(RULES) == list(WORKLOADS)


# What all recipes have to keep to.


def common(lines: list[Line], *, minutes: float = 1.0) -> set[str]:
    runner = [
        Line(0.0, RUNNER, "run", "begin", {}),
        Line(60.0 * minutes, RUNNER, "run", "stop", {}),
    ]
    return {found.rule for found in check_common(history("mutex", lines, runner), "mutex")}


def busy(until: float = 60.0, workers: int = 3) -> list[Line]:
    """Return enough successes, and the ends of all workloads."""
    oks = [at(float(t), t % workers, "ok", asked=float(t)) for t in range(1, int(until))]
    return [*oks, *[at(61, worker, "over") for worker in range(3)]]


def test_a_quiet_run_is_in_order() -> None:
    assert common(busy()) == set()


def test_an_error_that_is_not_documented_is_found() -> None:
    assert common([*busy(), failed(5, "acquire", "LockTimeout")]) == set()
    assert common([*busy(), failed(5, "acquire", "Unavailable")]) == {"error"}
    assert common([*busy(), failed(5, "release", "LockTimeout")]) == {"error"}
    assert common([*busy(), failed(5, "acquire", "RuntimeError")]) == {"error"}


def test_a_step_that_hangs_is_found() -> None:
    assert common([*busy(), at(5, 0, "hang", what="acquire", asked=1, within=15)]) == {"hang"}


def test_a_workload_that_does_not_end_is_found() -> None:
    assert common(busy()[:-1]) == {"hang"}


def test_a_recipe_that_was_hardly_used_is_found() -> None:
    assert common([line for line in busy() if line.kind == "over" or line.t < 10]) == {"idle"}
    assert common(busy(workers=2)) == {"idle"}


def test_a_recipe_that_never_recovers_is_found() -> None:
    assert common(busy(until=80.0), minutes=2.5) == {"silent"}


def test_a_run_whose_faults_did_not_happen_is_found() -> None:
    lines = [Line(1.0, RUNNER, "fault", "begin", {}), Line(2.0, RUNNER, "fault", "healed", {})]
    assert judge(History(lines), [], faults=1) == []
    assert [found.rule for found in judge(History(lines), [], faults=2)] == ["faults"]
    assert [found.rule for found in judge(History(lines[:1]), [], faults=0)] == ["faults"]


# Times.


def test_recovery_counts_only_calls_that_began_afterwards() -> None:
    lines = [
        at(10.5, 0, "ok", asked=9.0),  # was under way already
        at(14.0, 0, "ok", asked=10.2),
        at(13.0, 1, "ok", asked=10.4),
        at(21.0, 1, "ok", asked=20.5),
    ]
    times = times_after(history("mutex", lines), "mutex", [10.0, 20.0, 30.0])
    assert times.seconds == (1.0, 3.0)
    assert (times.median, times.worst, times.never) == (2.0, 3.0, 1)


def test_a_line_is_read_as_it_was_written() -> None:
    text = '{"t":1.5,"w":2,"r":"mutex","k":"ok","asked":1.0}'
    assert parse(text) == Line(1.5, 2, "mutex", "ok", {"asked": 1.0})
