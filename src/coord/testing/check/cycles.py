"""Whether transactions on lists could have happened one after the other (Adya's phenomena, found as Elle finds them).

A list shows its own history: who reads ``[1, 2, 3]`` tells that 1 came first, then 2, then 3. So the order of a
key's versions is that of its longest reading, and who wrote what somebody read is known. From that follow edges
between transactions, and a cycle of edges is a proof that there is no order:

- *ww*: one appended right after the other; *wr*: one read what the other appended; *rw*: one read a list without
  what the other appended next; *rt*: one was over before the other began.
- *G0*: a cycle of ww only (dirty write); *G1c*: of ww and wr; *G-single*: with one rw (read skew, lost update);
  *G2-item*: with several (write skew). With an rt edge in it, ``-realtime`` is added.

And without cycles: *G1a* (an append of a failed transaction was read), *G1b* (an append was read that the same
transaction went on from), *internal* (a transaction does not see its own appends, or reads differently twice),
*incompatible order* (two readings of which neither begins with the other), *duplicate* (an element is twice in a
list), *garbage* (an element that nobody appended).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from coord.testing.check.graph import EDGE_KINDS, EdgeKind, Graph
from coord.testing.check.timeline import NEVER, Timeline
from coord.testing.check.verdict import Verdict, Violation, verdict_of
from coord.testing.lines import HistoryError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from coord.testing.records import Record, Status

LIST_APPEND = "ListAppend"
"""The ``op`` of recorded calls that are transactions on lists."""

_SHOWN = 12
"""Elements of a list in an explanation."""


@dataclass(frozen=True, slots=True)
class Append:
    """Puts an element at a list's end. No element is appended twice to one key in a history."""

    key: str
    element: int


@dataclass(frozen=True, slots=True)
class Read:
    """Reads a list; None if what was read is not known."""

    key: str
    elements: tuple[int, ...] | None = None


Step: TypeAlias = Append | Read


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ListTxn:
    """One transaction. ``begun`` and ``ended`` are places in the order of time, ``ended`` NEVER if unknown."""

    name: str
    begun: int
    ended: int
    status: Status
    steps: tuple[Step, ...]

    def describe(self) -> str:
        """Return one line about it."""
        said = ", ".join(
            f"append {step.key} {step.element}"
            if isinstance(step, Append)
            else f"read {step.key} {_short(step.elements)}"
            for step in self.steps
        )
        return f"{self.name} ({self.status}): {said}"


def encode_steps(steps: Sequence[Step]) -> bytes:
    """Return steps as the request of a ListAppend call, or with what was read as its response."""
    rows: list[list[Any]] = [
        ["append", step.key, step.element]
        if isinstance(step, Append)
        else ["r", step.key, None if step.elements is None else list(step.elements)]
        for step in steps
    ]
    return json.dumps(rows, separators=(",", ":")).encode()


def decode_steps(data: bytes) -> tuple[Step, ...]:
    """Return the steps of a request or response. Raises HistoryError."""
    try:
        return tuple(_step(*row) for row in json.loads(data))
    except (ValueError, TypeError) as error:
        raise HistoryError(f"no list of steps: {error}") from error


def _step(kind: str, key: str, value: Any) -> Step:  # noqa: ANN401 - JSON
    if kind == "append":
        return Append(str(key), int(value))
    if kind == "r":
        return Read(str(key), None if value is None else tuple(int(each) for each in value))
    raise ValueError(f"no such step: {kind!r}")


def list_txns(timeline: Timeline) -> list[ListTxn]:
    """Return the list transactions of a history."""
    found: list[ListTxn] = []
    for operation in timeline.operations:
        if operation.op != LIST_APPEND:
            continue
        answer = operation.raw_response if operation.is_ok else b""
        found.append(
            ListTxn(
                name=operation.name,
                begun=operation.begun,
                ended=operation.ended,
                status=operation.status,
                steps=decode_steps(answer or operation.call.request),
            )
        )
    return found


def check_cycles(records: Iterable[Record]) -> Verdict:
    """Judge the list transactions of a history: strict serializability."""
    return cycles_of(list_txns(Timeline(records)))


def cycles_of(txns: Sequence[ListTxn]) -> Verdict:
    """As :func:`check_cycles`, of transactions."""
    return verdict_of("cycles", len(txns), _Judge(txns).run())


class _Judge:
    """All transactions, the readings of each key, and who appended what."""

    def __init__(self, txns: Sequence[ListTxn]) -> None:
        self._txns = txns
        self._found: list[Violation] = []
        self._writer: dict[tuple[str, int], ListTxn] = {}
        self._readings: dict[str, list[tuple[ListTxn, tuple[int, ...]]]] = {}
        for txn in txns:
            for step in txn.steps:
                if isinstance(step, Append):
                    self._writer[step.key, step.element] = txn

    def run(self) -> list[Violation]:
        """Return what is wrong."""
        for txn in self._txns:
            if txn.status == "ok":
                self._internal(txn)
                self._collect(txn)
        orders = {key: self._order(key) for key in self._readings}
        committed = self._committed()
        graph = Graph(len(committed))
        places = {id(txn): place for place, txn in enumerate(committed)}
        self._add_data_edges(graph, orders, places)
        _add_time_edges(graph, committed)
        self._found += _cycles(graph, committed)
        return self._found

    def _report(self, rule: str, text: str, *txns: ListTxn) -> None:
        told = [text, *(txn.describe() for txn in txns)]
        names = tuple(txn.name for txn in txns)
        self._found.append(Violation(rule=rule, operations=names, text="\n".join(told)))

    def _internal(self, txn: ListTxn) -> None:
        """See that a transaction reads what it read before and has appended since."""
        known: dict[str, tuple[int, ...]] = {}
        appended: dict[str, tuple[int, ...]] = {}
        for step in txn.steps:
            if isinstance(step, Append):
                appended[step.key] = (*appended.get(step.key, ()), step.element)
                if step.key in known:
                    known[step.key] = (*known[step.key], step.element)
            elif step.elements is not None:
                own = appended.get(step.key, ())
                expected = known.get(step.key)
                if expected is not None and step.elements != expected:
                    text = f"{step.key} is {_short(step.elements)} and should be {_short(expected)}"
                    self._report("internal", text, txn)
                elif own and step.elements[-len(own) :] != own:
                    text = f"{step.key} is {_short(step.elements)} after appending {_short(own)}"
                    self._report("internal", text, txn)
                known[step.key] = step.elements

    def _collect(self, txn: ListTxn) -> None:
        """Take a transaction's readings of what others appended, and look at each by itself."""
        own: dict[str, int] = {}
        for step in txn.steps:
            if isinstance(step, Append):
                own[step.key] = own.get(step.key, 0) + 1
                continue
            if step.elements is None:
                continue
            length = len(step.elements) - own.get(step.key, 0)
            reading = step.elements[: max(0, length)]
            self._readings.setdefault(step.key, []).append((txn, reading))
            self._look(txn, step.key, reading)

    def _look(self, txn: ListTxn, key: str, reading: tuple[int, ...]) -> None:
        if len(set(reading)) != len(reading):
            self._report("duplicate", f"an element is twice in {key}: {_short(reading)}", txn)
        for element in reading:
            writer = self._writer.get((key, element))
            if writer is None:
                self._report("garbage", f"nobody appended {element} to {key}", txn)
            elif writer.status == "fail":
                self._report("G1a", f"{element} in {key} was never committed", txn, writer)
        writer = self._writer.get((key, reading[-1])) if reading else None
        if writer is not None and writer is not txn:
            last = [s.element for s in writer.steps if isinstance(s, Append) and s.key == key][-1]
            if last != reading[-1]:
                text = f"{key} was read up to {reading[-1]}, of one who appended {last} after it"
                self._report("G1b", text, txn, writer)

    def _order(self, key: str) -> tuple[int, ...]:
        readings = self._readings[key]
        longest_by, longest = max(readings, key=lambda reading: len(reading[1]))
        for txn, reading in readings:
            if reading != longest[: len(reading)]:
                text = f"{key} was read as {_short(reading)} and as {_short(longest)}"
                self._report("incompatible order", text, txn, longest_by)
        return longest

    def _committed(self) -> list[ListTxn]:
        """Return what certainly happened: answered, or seen by somebody."""
        seen = {
            id(self._writer[key, element])
            for key, readings in self._readings.items()
            for _, reading in readings
            for element in reading
            if (key, element) in self._writer
        }
        return [txn for txn in self._txns if txn.status == "ok" or id(txn) in seen]

    def _add_data_edges(
        self, graph: Graph, orders: dict[str, tuple[int, ...]], places: dict[int, int]
    ) -> None:
        unseen: dict[str, list[int]] = {key: [] for key in orders}
        for (key, element), writer in self._writer.items():
            if writer.status == "ok" and element not in orders.get(key, ()):
                unseen.setdefault(key, []).append(places[id(writer)])
        for key, order in orders.items():
            # Who wrote the version of each length; nobody wrote the empty list.
            writers: list[int | None] = [None]
            for element in order:
                by = self._writer.get((key, element))
                writers.append(None if by is None else places.get(id(by)))
            for before, after in pairwise(writers):
                graph.add(before, after, "ww", key)
            for after in unseen[key]:
                graph.add(writers[-1], after, "ww", key)
            for txn, reading in self._readings[key]:
                reader = places[id(txn)]
                if reading != order[: len(reading)]:
                    continue  # told already; it says nothing about places in this order
                graph.add(writers[len(reading)], reader, "wr", key)
                self._add_rw(graph, key, reader, writers[len(reading) + 1 :], unseen[key])

    @staticmethod
    def _add_rw(
        graph: Graph, key: str, reader: int, later: Sequence[int | None], unseen: Sequence[int]
    ) -> None:
        """Put the reader before who wrote next; its own appends are no news to it."""
        others = [writer for writer in later if writer is not None and writer != reader]
        if others:
            graph.add(reader, others[0], "rw", key)
        else:
            # What nobody ever saw can only have come after all that was seen.
            for writer in unseen:
                graph.add(reader, writer, "rw", key)


def _add_time_edges(graph: Graph, txns: Sequence[ListTxn]) -> None:
    """Order what did not overlap, by few edges: those that follow from others are left out."""
    marks = sorted(
        [(txn.begun, 0, place) for place, txn in enumerate(txns)]
        + [(txn.ended, 1, place) for place, txn in enumerate(txns) if txn.ended != NEVER]
    )
    latest: dict[int, None] = {}
    for _, is_end, place in marks:
        if not is_end:
            for before in latest:
                graph.add(before, place, "rt", "")
            continue
        begun = txns[place].begun
        for before in [each for each in latest if txns[each].ended < begun]:
            del latest[before]
        latest[place] = None


_Anomaly = Literal["G0", "G1c", "G-single", "G2-item"]
# From the narrowest to the widest: what is found with few kinds of edges is the more telling.
_SEARCHES: tuple[tuple[_Anomaly, frozenset[EdgeKind], int], ...] = (
    ("G0", frozenset({"ww"}), 0),
    ("G1c", frozenset({"ww", "wr"}), 0),
    ("G-single", frozenset({"ww", "wr"}), 1),
    ("G2-item", frozenset({"ww", "wr", "rw"}), 1),
)


def _cycles(graph: Graph, txns: Sequence[ListTxn]) -> list[Violation]:
    """Return one cycle of each knot of the graph, as its narrowest kind."""
    found: list[Violation] = []
    for knot in graph.components(frozenset(EDGE_KINDS)):
        for suffix, more in (
            ("", frozenset[EdgeKind]()),
            ("-realtime", frozenset[EdgeKind]({"rt"})),
        ):
            violation = _narrowest(graph, knot, suffix, more, txns)
            if violation is not None:
                found.append(violation)
                break
    return found


def _narrowest(
    graph: Graph,
    knot: Sequence[int],
    suffix: str,
    more: frozenset[EdgeKind],
    txns: Sequence[ListTxn],
) -> Violation | None:
    for anomaly, kinds, against in _SEARCHES:
        cycle = graph.cycle(knot, kinds | more, through="rw" if against else None)
        if cycle is None:
            continue
        lines = [
            f"a cycle of {len(cycle)}: each comes before the next, and the last before the first"
        ]
        for edge in cycle:
            on = f" on {edge.label}" if edge.label else ""
            lines.append(f"{txns[edge.start].describe()}\n  -{edge.kind}{on}->")
        names = tuple(txns[edge.start].name for edge in cycle)
        return Violation(rule=anomaly + suffix, operations=names, text="\n".join(lines))
    return None


def _short(elements: tuple[int, ...] | None) -> str:
    if elements is None:
        return "?"
    if len(elements) <= _SHOWN:
        return str(list(elements))
    return f"[{len(elements)} elements, ..., {', '.join(map(str, elements[-_SHOWN:]))}]"
