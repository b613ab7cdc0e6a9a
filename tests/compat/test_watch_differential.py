"""Watch streams of coord-server and of both releases of etcd tell the same story."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeAlias

import pytest

from coord.wire import methods as rpcs
from coord.wire import rpc_pb2
from tests.compat.answers import Step
from tests.compat.pair import Pair, pair_of_servers
from tests.compat.watch_script import (
    Act,
    Ask,
    Do,
    HalfClose,
    Player,
    See,
    SeeEnd,
    Story,
    cancel,
    compact,
    create,
    delete,
    progress,
    put,
    txn,
)
from tests.support.servers import etcd_versions

pytestmark = [pytest.mark.etcd, pytest.mark.processes]

# Takes the revision of the store, which has no keys, and returns what to do.
Script: TypeAlias = Callable[[int], list[Act]]

NOPUT = rpc_pb2.WatchCreateRequest.NOPUT
NODELETE = rpc_pb2.WatchCreateRequest.NODELETE
ALL = b"\x00"
FAR = (1 << 63) - 1
LARGE = bytes(60_000)
COMPACTED = "etcdserver: mvcc: required revision has been compacted"


def ids(_base: int) -> list[Act]:
    """Chosen by the server and by the client, taken twice, free again."""
    return [
        *(create(b"k"), create(b"k", watch_id=1), create(b"k", watch_id=1), create(b"k")),
        *(create(b"k", watch_id=7), create(b"k", watch_id=-5), create(b"k", watch_id=FAR)),
        *(cancel(1), create(b"k", watch_id=1), cancel(2), create(b"k"), cancel(3)),
        *(cancel(99, answered=False), cancel(3, answered=False), cancel(0), cancel(-5)),
        *(put(b"k"), See(7, 1), See(FAR, 1), See(1, 1)),
    ]


def empty_ranges(_base: int) -> list[Act]:
    return [
        *(create(b"b", b"a"), create(b"b", b"b"), create(b"b", b"\x00\x00"), create(b"", b"")),
        *(create(b"a"), put(b"a"), See(1, 1)),
    ]


def ranges(_base: int) -> list[Act]:
    """One key, half-open, from a key on, all, and the empty key for the lowest one."""
    return [
        *(create(b"b"), create(b"b", b"d"), create(b"b", b"\x00"), create(ALL, b"\x00")),
        *(create(b"", b"\x00"), create(b""), create(b"\x00")),
        *(put(b"a"), put(b"b"), put(b"c"), put(b"d"), put(b"\xff"), put(b"\x00"), put(b"z")),
        *(See(0, 1), See(1, 2), See(2, 5), See(3, 7), See(4, 7), See(5, 1), See(6, 1)),
    ]


def starts(base: int) -> list[Act]:
    """From the past, from now, from later."""
    return [
        *(put(b"k", b"1"), put(b"k", b"2"), delete(b"k"), put(b"k", b"3"), put(b"other")),
        *(create(b"k", at=base + 1), See(0, 4), create(b"k", at=base + 3), See(1, 2)),
        *(create(b"k", at=base + 5), create(b"k", at=base + 6), create(b"k", at=base + 8)),
        create(b"k"),
        *(put(b"k", b"4"), put(b"k", b"5"), put(b"k", b"6")),
        *(See(0, 7), See(1, 5), See(2, 3), See(3, 3), See(4, 1), See(5, 3)),
        *(create(b"k", at=FAR), cancel(6)),
    ]


def filters(base: int) -> list[Act]:
    return [
        *(create(b"k", filters=[NOPUT]), create(b"k", filters=[NODELETE])),
        *(create(b"k", filters=[NOPUT, NODELETE]), create(b"k", filters=[NOPUT, NOPUT])),
        *(put(b"k"), delete(b"k"), txn(put(b"k"), delete(b"l")), delete(b"k"), put(b"k")),
        *(See(0, 2), See(1, 3), See(3, 2)),
        *(create(b"k", at=base + 1, filters=[NOPUT]), See(4, 2)),
        *(create(b"k", at=base + 1, filters=[NODELETE]), See(5, 3)),
        *(cancel(2), progress()),
    ]


def previous(base: int) -> list[Act]:
    """With the pair before, live and from history, beside a watcher that did not ask for it."""
    return [
        *(create(b"k", b"l", prev_kv=True), create(b"k", b"l"), put(b"k", b"1"), put(b"k", b"2")),
        *(put(b"k1", b"one"), txn(put(b"k", b"3"), delete(b"k1"), put(b"k2", b""))),
        *(delete(b"k", b"l"), put(b"k", b"again"), See(0, 9), See(1, 9)),
        *(create(b"k", b"l", prev_kv=True, at=base + 1), See(2, 9)),
        *(create(b"k", b"l", prev_kv=True, at=base + 5), See(3, 3)),
    ]


def order_in_a_revision(base: int) -> list[Act]:
    """Operations of a transaction in their order, keys of a range delete in theirs."""
    return [
        *(create(ALL, b"\x00"), txn(put(b"z"), put(b"a"), put(b"m")), put(b"b")),
        *(txn(delete(b"z"), put(b"c"), delete(b"a", b"c"), put(b"0")), delete(ALL, b"\x00")),
        *(See(0, 12), create(ALL, b"\x00", at=base + 1), See(1, 12)),
    ]


def leases(_base: int) -> list[Act]:
    grant = rpc_pb2.LeaseGrantRequest(ID=77, TTL=600)
    return [
        Do(Step(rpcs.LEASE_GRANT, grant)),
        *(create(ALL, b"\x00", prev_kv=True), put(b"b", lease=77), put(b"a", lease=77)),
        *(put(b"c", lease=77), put(b"c"), put(b"d", lease=77)),
        Do(Step(rpcs.LEASE_REVOKE, rpc_pb2.LeaseRevokeRequest(ID=77))),
        See(0, 8),
    ]


def compacted(base: int) -> list[Act]:
    """From before, from exactly, and from after the compaction; the id stays taken until cancelled."""
    return [
        *(put(b"k", b"1"), put(b"k", b"2"), put(b"k", b"3"), put(b"k", b"4"), compact(base + 3)),
        *(create(b"k", at=base + 3, prev_kv=True), See(0, 2)),
        *(create(b"k", at=base + 1, watch_id=5), SeeEnd(5), create(b"k", watch_id=5)),
        *(cancel(5), create(b"k", watch_id=5), create(b"k", at=1), SeeEnd(1)),
        *(put(b"k", b"5"), See(0, 3), See(5, 1)),
    ]


def progress_of_the_stream(_base: int) -> list[Act]:
    return [
        *(create(b"k"), progress(), put(b"k"), See(0, 1), progress(), put(b"other"), create(b"l")),
        *(progress(), cancel(0), progress(), progress()),
    ]


def after_half_close(_base: int) -> list[Act]:
    return [create(b"k"), HalfClose(), put(b"k", b"1"), put(b"k", b"2"), See(0, 2)]


def requests_without_content(_base: int) -> list[Act]:
    return [
        Ask(rpc_pb2.WatchRequest(), answered=False),
        *(create(b"k"), put(b"k"), See(0, 1)),
    ]


def long_history(base: int) -> list[Act]:
    """More revisions than one response takes."""
    return [
        *(put(b"k%d" % (number % 7), b"%d" % number) for number in range(1300)),
        *(create(b"k", b"l", at=base + 1), create(b"k3", at=base + 600, prev_kv=True)),
        *(See(0, 1300), See(1, 100)),
    ]


def fragments(base: int) -> list[Act]:
    """The limit of a request is small here, so that 1.2 MB are too much for one response."""
    return [
        *(put(b"k%d" % number, LARGE) for number in range(20)),
        *(create(b"k", b"l", at=base + 1, fragment=True), See(0, 20)),
        *(create(b"k", b"l", at=base + 1), See(1, 20)),
        *(create(b"k1", at=base + 1, fragment=True), See(2, 1)),
    ]


SAME: list[Script] = [
    *(ids, empty_ranges, ranges, starts, filters, previous, order_in_a_revision, leases),
    *(compacted, progress_of_the_stream, after_half_close, requests_without_content),
    *(long_history, fragments),
]


# Where coord-server follows a newer etcd than 3.5.1 on purpose (docs/compatibility.md).


def negative_start(_base: int) -> list[Act]:
    """Refused at once; 3.5.1 makes a watcher first, and cancels it if there was a compaction."""
    return [create(b"k", at=-1), create(b"k", watch_id=5), put(b"k"), See(5, 1)]


def deletion_at_the_compaction(base: int) -> list[Act]:
    """It is kept, so that a watch from there misses nothing; 3.5.1 drops it."""
    return [
        *(put(b"k"), delete(b"k"), compact(base + 2), put(b"k")),
        *(create(b"k", at=base + 2), put(b"k"), put(b"k"), See(0, 3)),
    ]


def progress_without_watchers(_base: int) -> list[Act]:
    """There is nobody whom an answer could tell anything; 3.5.1 answers."""
    return [progress(answered=False), create(b"k")]


DIFFERENT: list[tuple[Script, Callable[[int], list[str]]]] = [
    (
        negative_start,
        lambda base: [
            f"-1 created canceled at {base}: {COMPACTED}",
            f"5 created at {base}",
            "watcher -1",
            f"  created canceled at {base}: {COMPACTED}",
            "watcher 5",
            f"  created at {base}",
            f"  PUT b'k' b'v' ({base + 1}, {base + 1}, 1, 0)",
        ],
    ),
    (
        deletion_at_the_compaction,
        lambda base: [
            f"0 created at {base + 3}",
            "watcher 0",
            f"  created at {base + 3}",
            f"  DELETE b'k' b'' (0, {base + 2}, 0, 0)",
            f"  PUT b'k' b'v' ({base + 3}, {base + 3}, 1, 0)",
            f"  PUT b'k' b'v' ({base + 3}, {base + 4}, 2, 0)",
            f"  PUT b'k' b'v' ({base + 3}, {base + 5}, 3, 0)",
        ],
    ),
    (
        progress_without_watchers,
        lambda base: [f"0 created at {base}", "watcher 0", f"  created at {base}"],
    ),
]


@pytest.fixture(scope="module", params=etcd_versions())
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    directory: Path = tmp_path_factory.mktemp("watch")
    flag = "--max-request-bytes=65536"
    with pair_of_servers(directory, flag, version=request.param) as servers:
        yield servers


def play(pair: Pair, script: Script) -> tuple[Story, Story]:
    acts = script(pair.reset())
    with ThreadPoolExecutor(2) as pool:
        ours = pool.submit(Player(pair.ours).play, acts)
        theirs = pool.submit(Player(pair.theirs).play, acts)
    return ours.result(), theirs.result()


@pytest.mark.parametrize("script", SAME, ids=lambda script: script.__name__)
def test_the_same_story(pair: Pair, script: Script) -> None:
    ours, theirs = play(pair, script)
    difference = difflib.unified_diff(
        theirs.lines(), ours.lines(), "etcd", "coord-server", lineterm="", n=8
    )
    if text := "\n".join(difference):
        pytest.fail(text, pytrace=False)


@pytest.mark.parametrize(
    ("script", "expected"), DIFFERENT, ids=[script.__name__ for script, _ in DIFFERENT]
)
def test_a_different_story(
    pair: Pair, script: Script, expected: Callable[[int], list[str]]
) -> None:
    base = pair.reset()
    ours, theirs = play(pair, script)
    assert ours.lines() == expected(base)
    assert theirs.lines() != ours.lines()
