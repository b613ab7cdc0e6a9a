"""List transactions: each phenomenon is found by its name, and what has an order is accepted."""

from __future__ import annotations

import random

import pytest

from coord.testing.check import Append, ListTxn, Read, Step, check_cycles, cycles_of, encode_steps
from coord.testing.check.cycles import LIST_APPEND, decode_steps
from coord.testing.check.timeline import NEVER
from coord.testing.history import Call, HistoryError, Record, Return, Status

Spec = tuple[tuple[int, int], list[Step]]


def a(key: str, element: int) -> Append:
    return Append(key, element)


def r(key: str, *elements: int) -> Read:
    return Read(key, elements)


def history(*specs: Spec, status: dict[int, Status] | None = None) -> list[ListTxn]:
    states = status or {}
    return [
        ListTxn(
            name=f"T{n}",
            begun=at[0],
            ended=NEVER if states.get(n) == "info" else at[1],
            status=states.get(n, "ok"),
            steps=tuple(steps),
        )
        for n, (at, steps) in enumerate(specs)
    ]


# All at once, unless time matters.
ALL = (0, 100)

GOOD: dict[str, list[ListTxn]] = {
    "nothing": [],
    "one after the other": history(
        ((1, 2), [a("x", 1)]), ((3, 4), [r("x", 1), a("x", 2)]), ((5, 6), [r("x", 1, 2)])
    ),
    "own appends": history((ALL, [a("x", 1), r("x", 1), a("x", 2), r("x", 1, 2)])),
    "a read between": history(((1, 9), [a("x", 1)]), ((2, 8), [r("x")]), ((3, 7), [r("x", 1)])),
    "an unknown one that was seen": history(
        ((1, 2), [a("x", 1)]), ((3, 4), [r("x", 1)]), status={0: "info"}
    ),
    "an unknown one that was not": history(
        ((1, 2), [a("x", 1)]), ((3, 4), [r("x")]), status={0: "info"}
    ),
    "a failed one that was not": history(
        ((1, 2), [a("x", 1)]), ((3, 4), [r("x")]), status={0: "fail"}
    ),
    "two keys in step": history(
        (ALL, [a("x", 1), a("y", 1)]), (ALL, [r("x", 1), r("y", 1)]), (ALL, [r("x"), r("y")])
    ),
}  # fmt: skip


@pytest.mark.parametrize("txns", GOOD.values(), ids=GOOD.keys())
def test_what_has_an_order_is_accepted(txns: list[ListTxn]) -> None:
    verdict = cycles_of(txns)
    assert verdict.ok, str(verdict)


BAD: list[tuple[str, list[ListTxn]]] = [
    ("G0", history((ALL, [a("x", 1), a("y", 1)]), (ALL, [a("x", 2), a("y", 2)]),
                   (ALL, [r("x", 1, 2)]), (ALL, [r("y", 2, 1)]))),
    ("G1a", history((ALL, [a("x", 1)]), (ALL, [r("x", 1)]), status={0: "fail"})),
    ("G1b", history((ALL, [a("x", 1), a("x", 2)]), (ALL, [r("x", 1)]))),
    ("G1c", history((ALL, [a("x", 1), r("y", 1)]), (ALL, [a("y", 1), r("x", 1)]))),
    ("G-single", history((ALL, [a("x", 1), a("y", 1)]), (ALL, [r("x", 1), r("y")]), (ALL, [r("y", 1)]))),
    ("G-single", history((ALL, [r("x"), a("x", 1)]), (ALL, [r("x"), a("x", 2)]), (ALL, [r("x", 1, 2)]))),
    ("G2-item", history((ALL, [r("x"), a("y", 1)]), (ALL, [r("y"), a("x", 1)]),
                        ((200, 201), [r("x", 1), r("y", 1)]))),
    ("G2-item", history((ALL, [r("x"), a("y", 1)]), (ALL, [r("y"), a("x", 1)]))),
    ("G-single-realtime", history(((1, 2), [a("x", 1)]), ((3, 4), [r("x")]), ((5, 6), [r("x", 1)]))),
    ("G0-realtime", history(((1, 2), [a("x", 1)]), ((3, 4), [a("x", 2)]), ((5, 6), [r("x", 2, 1)]))),
    ("G1c-realtime", history(((1, 2), [r("x", 1)]), ((3, 4), [a("x", 1)]))),
    ("G-single-realtime", history(((1, 2), [a("x", 1)]), ((3, 4), [r("x")]))),
    ("internal", history((ALL, [a("x", 1), r("x")]))),
    ("internal", history((ALL, [r("x"), r("x", 1)]), (ALL, [a("x", 1)]))),
    ("incompatible order", history((ALL, [a("x", 1)]), (ALL, [a("x", 2)]), (ALL, [r("x", 1, 2)]),
                                   (ALL, [r("x", 2)]))),
    ("duplicate", history((ALL, [a("x", 1)]), (ALL, [r("x", 1, 1)]))),
    ("garbage", history((ALL, [r("x", 7)]))),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "txns"), BAD, ids=[f"{n}-{row[0]}" for n, row in enumerate(BAD)])
def test_what_has_none_is_named(rule: str, txns: list[ListTxn]) -> None:
    verdict = cycles_of(txns)
    assert rule in verdict.rules, str(verdict)
    assert all(len(each.text.splitlines()) <= 20 for each in verdict.violations)


def run(seed: int, count: int, *, guarded: bool) -> list[Record]:
    """Clients on a store that keeps them apart, or in which each reads a copy and only its own writes are checked."""
    rand = random.Random(seed)
    lists: dict[str, list[int]] = {key: [] for key in "wxyz"}
    past: list[dict[str, list[int]]] = []
    records: list[Record] = []
    now = 0
    for number in range(1, count + 1):
        one, two = rand.sample("wxyz", 2)
        past.append({key: list(elements) for key, elements in lists.items()})
        old = past[max(0, len(past) - rand.randrange(1, 4))]
        # Read skew: a copy as of a little while ago, of the one key that is only read.
        shown = lists if guarded else old
        request: list[Step] = [Read(one), Append(two, number)]
        answer: list[Step] = [Read(one, tuple(shown[one])), Append(two, number)]
        lists[two].append(number)
        begin = now
        now += 10
        end = now + rand.randrange(40)
        records += [
            Call(id=number, client=f"c{number}", ts=begin - rand.randrange(40), op=LIST_APPEND,
                 request=encode_steps(request)),
            Return(id=number, ts=end, status="ok", response=encode_steps(answer)),
        ]  # fmt: skip
    return records


@pytest.mark.parametrize("seed", range(5))
def test_runs(seed: int) -> None:
    verdict = check_cycles(run(seed, 400, guarded=True))
    assert verdict.ok, str(verdict)
    assert verdict.checked == 400
    skewed = check_cycles(run(seed, 400, guarded=False))
    assert any(rule.startswith(("G-single", "G2")) for rule in skewed.rules), str(skewed)


def test_a_long_run_is_decided() -> None:
    assert check_cycles(run(1, 1500, guarded=True)).ok


def test_steps_as_bytes() -> None:
    steps: tuple[Step, ...] = (Append("x", 1), Read("y"), Read("z", (1, 2)))
    assert decode_steps(encode_steps(steps)) == steps
    for bad in (b"{", b"[1]", b'[["append","x"]]', b'[["x","y",1]]', b'[["r","x",7]]'):
        with pytest.raises(HistoryError):
            decode_steps(bad)
