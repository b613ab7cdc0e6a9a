"""The watch checker accepts what is legal and names what is not, on histories of known verdict."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from coord.testing.check import IncompleteHistory, check_watches, replay
from coord.testing.history import (
    Call,
    Pair,
    Record,
    Return,
    SeenEvent,
    WatchEnded,
    WatchOpened,
    WatchResponded,
    key_text,
    value_text,
)
from coord.testing.model import Change, Model, Version, in_range
from coord.wire import rpc_pb2

KEYS = [b"a", b"b", b"c"]


def pair(key: bytes, version: Version) -> Pair:
    return Pair(
        key=key_text(key),
        value=value_text(version.value),
        create_revision=version.create,
        mod_revision=version.mod,
        version=version.version,
        lease=version.lease,
    )


def a_store() -> Model:
    """Revisions 2 to 13: puts, deletes of one and of many, transactions, a key that comes again."""
    model = Model()
    for n in range(6):  # 2 to 7
        model.put(rpc_pb2.PutRequest(key=KEYS[n % 3], value=b"%d" % n))
    model.delete_range(rpc_pb2.DeleteRangeRequest(key=b"b"))  # 8
    ops = [rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=key)) for key in (b"c", b"a", b"b")]
    model.txn(rpc_pb2.TxnRequest(success=ops))  # 9
    model.delete_range(rpc_pb2.DeleteRangeRequest(key=b"a", range_end=b"d"))  # 10
    for key in KEYS:  # 11 to 13
        model.put(rpc_pb2.PutRequest(key=key, value=b"again" * 20))
    return model


CHANGES = a_store().changes
LAST = CHANGES[-1].revision


def event_of(change: Change, *, prev_kv: bool) -> SeenEvent:
    previous = None
    if prev_kv and change.before is not None:
        previous = pair(change.key, change.before)
    if change.now is None:
        gone = Pair(
            key=key_text(change.key),
            value="",
            create_revision=0,
            mod_revision=change.revision,
            version=0,
            lease=0,
        )
        return SeenEvent(is_delete=True, pair=gone, previous=previous)
    if change.before is None:
        previous = None
    return SeenEvent(is_delete=False, pair=pair(change.key, change.now), previous=previous)


def watched(asked: WatchOpened, *, created_at: int = LAST, cut: int = 1) -> list[Record]:
    """What a right server makes of a watch: ``cut`` revisions to a response, progress at the end."""
    first = asked.start or created_at + 1
    wanted = [
        change
        for change in CHANGES
        if change.revision >= first
        and in_range(change.key, asked.key or b"\x00", asked.end)
        and not (asked.no_deletes if change.now is None else asked.no_puts)
    ]
    records: list[Record] = [
        asked,
        WatchResponded(watcher=asked.watcher, ts=2, revision=created_at, created=True),
    ]
    revisions = sorted({change.revision for change in wanted})
    for begin in range(0, len(revisions), cut):
        here = revisions[begin : begin + cut]
        events = [
            event_of(change, prev_kv=asked.prev_kv)
            for change in wanted
            if here[0] <= change.revision <= here[-1]
        ]
        records.append(
            WatchResponded(watcher=asked.watcher, ts=3, revision=here[-1], events=tuple(events))
        )
    reached = max(LAST, asked.start)
    records.append(WatchResponded(watcher=asked.watcher, ts=4, revision=reached, progress=True))
    records.append(WatchEnded(watcher=asked.watcher, ts=5, reached=reached))
    return records


def everything(**options: int) -> WatchOpened:
    return replace(WatchOpened(watcher="w", ts=1, key=b"", end=b"\x00", start=2), **options)  # type: ignore[arg-type]


def rules(records: Sequence[Record]) -> set[str]:
    return set(check_watches(CHANGES, records).rules)


LEGAL = [
    everything(),
    everything(prev_kv=True),
    everything(no_puts=True),
    everything(no_deletes=True, prev_kv=True),
    everything(no_deletes=True, no_puts=True),
    *(everything(start=start) for start in (0, 3, 9, 10, LAST, LAST + 1, LAST + 50)),
    *(WatchOpened(watcher="w", ts=1, key=key, end=end, start=4) for key, end in
      ((b"a", b""), (b"b", b""), (b"a", b"c"), (b"b", b"\x00"), (b"x", b"y"))),
]  # fmt: skip


@pytest.mark.parametrize("asked", LEGAL, ids=str)
@pytest.mark.parametrize("cut", [1, 3, 100])
@pytest.mark.parametrize("created_at", [1, 6, LAST])
def test_what_is_legal_is_accepted(asked: WatchOpened, cut: int, created_at: int) -> None:
    assert check_watches(CHANGES, watched(asked, cut=cut, created_at=created_at)).ok


Mutation = Callable[[list[WatchResponded]], None]
# The responses are: created, revisions 2 to 13 one by one, progress.
CREATED, FIRST, TXN, ALL_GONE, PROGRESS = 0, 1, 8, 9, -1


def swap(one: int, other: int) -> Mutation:
    def mutate(responses: list[WatchResponded]) -> None:
        responses[one], responses[other] = responses[other], responses[one]

    return mutate


def drop(place: int) -> Mutation:
    def mutate(responses: list[WatchResponded]) -> None:
        del responses[place]

    return mutate


def change(place: int, edit: Callable[[WatchResponded], WatchResponded]) -> Mutation:
    def mutate(responses: list[WatchResponded]) -> None:
        responses[place] = edit(responses[place])

    return mutate


def change_event(place: int, edit: Callable[[SeenEvent], SeenEvent]) -> Mutation:
    def edit_first(response: WatchResponded) -> WatchResponded:
        return replace(response, events=(edit(response.events[0]), *response.events[1:]))

    return change(place, edit_first)


def change_pair(place: int, **values: object) -> Mutation:
    return change_event(
        place,
        lambda event: replace(event, pair=replace(event.pair, **values)),  # type: ignore[arg-type]
    )


def split(responses: list[WatchResponded]) -> None:
    whole = responses[TXN]
    responses[TXN] = replace(whole, events=whole.events[:1])
    responses.insert(TXN + 1, replace(whole, events=whole.events[1:]))


def double(responses: list[WatchResponded]) -> None:
    whole = responses[FIRST]
    responses[FIRST] = replace(whole, events=whole.events * 2)


def early_progress(responses: list[WatchResponded]) -> None:
    responses.insert(5, replace(responses[PROGRESS], revision=LAST))


def falling_progress(responses: list[WatchResponded]) -> None:
    responses.append(replace(responses[PROGRESS], revision=LAST - 1))


def drop_previous(place: int) -> Mutation:
    return change_event(place, lambda event: replace(event, previous=None))


ILLEGAL: list[tuple[str, Mutation, str]] = [
    ("two responses swapped", swap(3, 4), "ordered"),
    ("an event before the creation's answer", swap(CREATED, FIRST), "created"),
    ("a response is missing", drop(4), "reliable"),
    ("the first response is missing", drop(FIRST), "resumable"),
    ("the last response is missing", drop(-2), "complete"),
    ("a response comes twice", lambda r: r.insert(4, r[4]), "unique"),
    ("an event comes twice", double, "unique"),
    ("a revision is torn", split, "atomic"),
    ("a part of a revision is missing", change(TXN, lambda r: replace(r, events=r.events[1:])), "reliable"),
    ("events of a revision change places", change(TXN, lambda r: replace(r, events=r.events[::-1])), "ordered"),
    ("progress is too early", early_progress, "bookmarkable"),
    ("progress falls", falling_progress, "bookmarkable"),
    ("a revision that never was", change_pair(-2, mod_revision=LAST + 7), "reliable"),
    ("a key that never was", change_pair(3, key="z"), "reliable"),
    ("another value", change_pair(3, value="forged"), "content"),
    ("another version", change_pair(4, version=9), "content"),
    ("another creation", change_pair(4, create_revision=1), "content"),
    ("another lease", change_pair(4, lease=5), "content"),
    ("a deletion with a version", change_pair(ALL_GONE, version=1), "content"),
    ("a header that lags", change(5, lambda r: replace(r, revision=r.revision - 1)), "header"),
    ("a response of nothing", lambda r: r.insert(4, replace(r[4], events=())), "filter"),
    ("a previous pair is missing", drop_previous(4), "previous"),
    ("a previous pair of another time", change_event(7, lambda e: replace(e, previous=pair(b"b", Version(b"old", 3, 3, 1, 0)))), "previous"),
    ("a previous pair of a creation", change_event(FIRST, lambda e: replace(e, previous=e.pair)), "previous"),
]  # fmt: skip


@pytest.mark.parametrize(("mutate", "rule"), [row[1:] for row in ILLEGAL], ids=[r[0] for r in ILLEGAL])  # fmt: skip
def test_what_is_illegal_is_named(mutate: Mutation, rule: str) -> None:
    asked, *middle, ended = watched(everything(prev_kv=True), created_at=1)
    responses = [record for record in middle if isinstance(record, WatchResponded)]
    mutate(responses)
    assert rule in rules([asked, *responses, ended])


def test_previous_pairs_must_be_asked_for() -> None:
    with_previous = watched(everything(prev_kv=True))
    assert rules([everything(), *with_previous[1:]]) == {"previous"}


def test_what_was_not_asked_for() -> None:
    records = watched(everything())
    assert rules([everything(no_puts=True), *records[1:]]) >= {"filter", "reliable"}
    assert "reliable" in rules([replace(everything(), key=b"a", end=b"b"), *records[1:]])
    assert "reliable" in rules([everything(start=5), *records[1:]])


def test_progress_before_the_start() -> None:
    asked = everything(start=LAST + 5)
    records = watched(asked)
    records.insert(2, WatchResponded(watcher="w", ts=3, revision=LAST, progress=True))
    assert rules(records) == {"bookmarkable"}


def test_nothing_comes_after_the_end() -> None:
    records = watched(everything())
    assert rules([*records, records[3]]) == {"ended"}


def fragmented(*, keep_last: bool = True) -> list[Record]:
    records = watched(everything(), cut=100)
    (whole,) = [r for r in records if isinstance(r, WatchResponded) and r.events]
    parts = [replace(whole, events=(event,), fragment=True) for event in whole.events[:-1]]
    place = records.index(whole)
    records[place : place + 1] = [*parts, replace(whole, events=whole.events[-1:])]
    if not keep_last:
        del records[place + len(parts)]
    return records


def test_fragments_are_joined_before_they_are_judged() -> None:
    assert rules(fragmented()) == set()
    assert "atomic" in rules(fragmented(keep_last=False))


def test_fragments_lost_with_the_connection_were_never_delivered() -> None:
    records = fragmented(keep_last=False)
    del records[-2]  # progress
    records[-1] = WatchEnded(watcher="w", ts=5)
    assert rules(records) == set()


# Compaction.


def compaction(revision: int, *, begun: int, done: int, at: int = LAST - 1) -> list[Record]:
    request = rpc_pb2.CompactionRequest(revision=revision).SerializeToString()
    return [
        Call(id=9, client="c", ts=begun, op="Compact", request=request),
        Return(id=9, ts=done, status="ok", revision=at),
    ]


def ended_by(revision: int, *, start: int, ts: int = 9) -> list[Record]:
    asked, created, *_ = watched(everything(start=start))
    return [asked, created, WatchEnded(watcher="w", ts=ts, compact_revision=revision)]


def test_a_watch_from_before_the_compaction_is_ended() -> None:
    done = compaction(8, begun=0, done=0)
    assert rules([*done, *ended_by(8, start=3)]) == set()
    assert rules([*done, *ended_by(8, start=8)]) == {"compacted"}
    assert rules([*done, *ended_by(10, start=3)]) == {"compacted"}
    assert rules([*done, *watched(everything(start=3))]) == {"compacted"}
    assert rules([*done, *watched(everything(start=8))]) == set()
    quiet = replace(everything(start=3), key=b"none", end=b"")
    assert rules([*done, *watched(quiet)]) == {"compacted"}


def test_a_watch_on_a_member_that_lags_behind_a_compaction_may_begin_before_it() -> None:
    # All that the member had reached when the watch was opened may be from before the compaction.
    done = compaction(8, begun=0, done=0, at=LAST)
    assert rules([*done, *watched(everything(start=3))]) == set()


def test_a_watch_that_lags_behind_a_compaction_may_be_ended() -> None:
    records = watched(everything())[:5]  # 2, 3 and 4 were delivered
    later = compaction(8, begun=6, done=7)
    end = WatchEnded(watcher="w", ts=8, compact_revision=8)
    assert rules([*records, *later, end]) == set()
    too_far = watched(everything())[:10]
    assert rules([*too_far, *later, end]) == {"compacted"}


def test_previous_pairs_may_be_missing_below_a_compaction() -> None:
    records = watched(everything(prev_kv=True, start=8))

    def bare(record: Record) -> Record:
        if not isinstance(record, WatchResponded):
            return record
        return replace(record, events=tuple(replace(e, previous=None) for e in record.events))

    assert rules([bare(record) for record in records]) == {"previous"}
    legal = list(map(bare, records))
    assert rules([*compaction(10, begun=0, done=8), *legal]) == set()
    # The deletions of revision 10 could still be told apart after a compaction to 9.
    assert rules([*compaction(9, begun=0, done=8), *legal]) == {"previous"}
    assert rules([*compaction(10, begun=4, done=8), *legal]) == {"previous"}


# Replaying.


def call(number: int, op: str, request: bytes) -> Call:
    return Call(id=number, client="c", ts=number, op=op, request=request)


def put_call(number: int, key: bytes) -> Call:
    return call(number, "Put", rpc_pb2.PutRequest(key=key).SerializeToString())


def done(number: int, revision: int, *, changed: bool = True) -> Return:
    return Return(id=number, ts=number, status="ok", revision=revision, changed=changed)


def test_replay_puts_writes_in_order() -> None:
    delete = rpc_pb2.DeleteRangeRequest(key=b"b").SerializeToString()
    nothing = rpc_pb2.DeleteRangeRequest(key=b"none").SerializeToString()
    records: list[Record] = [
        put_call(1, b"b"), put_call(2, b"a"), done(2, 2), call(3, "DeleteRange", nothing),
        done(3, 3, changed=False), done(1, 3), call(4, "DeleteRange", delete), done(4, 4),
        put_call(5, b"never"), Return(id=5, ts=5, status="fail"),
    ]  # fmt: skip
    model = replay(records)
    assert [(c.revision, c.key, c.now is None) for c in model.changes] == [
        (2, b"a", False),
        (3, b"b", False),
        (4, b"b", True),
    ]


@pytest.mark.parametrize(
    "records",
    [
        [put_call(1, b"a"), done(1, 3)],
        [put_call(1, b"a"), done(1, 2), put_call(2, b"a"), done(2, 2)],
        [put_call(1, b"a"), Return(id=1, ts=1, status="info")],
        [call(1, "DeleteRange", rpc_pb2.DeleteRangeRequest(key=b"k").SerializeToString()), done(1, 2)],
    ],
)  # fmt: skip
def test_replay_refuses_what_is_incomplete(records: list[Record]) -> None:
    with pytest.raises(IncompleteHistory):
        replay(records)


def test_any_mutation_is_noticed() -> None:
    """Drop, double or swap anything anywhere: never does a changed history pass for a right one."""
    rand = random.Random(7)
    for _ in range(300):
        asked = rand.choice(LEGAL[:5])
        first, *middle, ended = watched(asked, created_at=1, cut=rand.choice((1, 2)))
        responses = [r for r in middle if isinstance(r, WatchResponded)]
        with_events = [n for n, r in enumerate(responses) if r.events]
        if not with_events:
            continue
        place = rand.choice(with_events)
        before = list(responses)
        match rand.randrange(3):
            case 0:
                del responses[place]
            case 1:
                responses.insert(place, responses[place])
            case _:
                other = rand.choice(with_events)
                responses[place], responses[other] = responses[other], responses[place]
        verdict = check_watches(CHANGES, [first, *responses, ended])
        assert verdict.ok == (responses == before)
