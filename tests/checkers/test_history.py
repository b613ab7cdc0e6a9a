"""Histories: what is written is what is read, and what is no record is refused."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coord.testing.history import (
    Call,
    Fault,
    HistoryError,
    LogEntry,
    Meta,
    Pair,
    Record,
    Recorder,
    Return,
    SeenEvent,
    SessionEvent,
    Tenure,
    WatchEnded,
    WatchOpened,
    WatchResponded,
    encode,
    key_bytes,
    key_text,
    read,
    value_text,
)

PAIR = Pair(
    key="k", value="len:99:00000000", create_revision=2, mod_revision=3, version=2, lease=-1
)
RECORDS: list[Record] = [
    Call(id=1, client="c1", ts=5, op="Put", request=b"\x0a\x01k"),
    Return(id=1, ts=6, status="ok", revision=2, changed=True),
    Return(id=2, ts=6, status="info", error="lost"),
    WatchOpened(watcher="w", ts=7, key=b"", end=b"\x00", start=-3, prev_kv=True, no_puts=True),
    WatchResponded(watcher="w", ts=8, revision=9, created=True),
    WatchResponded(
        watcher="w",
        ts=9,
        revision=9,
        fragment=True,
        events=(
            SeenEvent(is_delete=False, pair=PAIR, previous=PAIR),
            SeenEvent(is_delete=True, pair=PAIR),
        ),
    ),
    WatchEnded(watcher="w", ts=10, compact_revision=4, reached=7),
    Call(id=3, client="c1", ts=5, op="Range", request=b"", endpoint="n2"),
    Return(id=3, ts=6, status="ok", revision=2, response=b"\x0a\x00"),
    Meta(backend="sim", seed=7, options={"nodes": "3"}),
    SessionEvent(client="c1", ts=11, lease=9, phase="renewed", ttl=10, sent=5),
    Tenure(kind="lock", attempt=4, client="c1", name=b"\xff", ts=12, phase="call"),
    Tenure(
        kind="elect",
        attempt=5,
        client="c1",
        name=b"e",
        ts=13,
        phase="won",
        token=6,
        key=b"e/9",
        lease=9,
        until=99,
        revision=7,
        value=b"\x00",
        error="none",
    ),
    Fault(kind="kill", ts=14, phase="begin", on=("n1", "n2")),
    LogEntry(index=3, term=2, op="Put", request=b"\x0a\x01k"),
]


def test_what_is_written_is_read() -> None:
    file = io.StringIO()
    recorder = Recorder(file.write)
    for record in RECORDS:
        recorder.add(record)
    assert recorder.records == []
    assert list(read(file.getvalue().splitlines())) == RECORDS


@given(st.binary(max_size=80))
def test_keys_and_values_as_text(key: bytes) -> None:
    assert key_bytes(key_text(key)) == key
    text = value_text(key)
    assert text.startswith("len:") == (len(key) > 64)
    assert text != value_text(key + b"!")


@pytest.mark.parametrize("key", [b"b64:", b"len:1:2", b"b64:AAAA", b"\xff", b"a\nb", b""])
def test_keys_that_look_like_something_else(key: bytes) -> None:
    assert key_bytes(key_text(key)) == key


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        "1",
        '"x"',
        "{}",
        '{"k":"none","ts":1}',
        '{"k":"call","ts":1}',
        '{"k":"ret","id":1,"ts":1,"st":"maybe","r":{"rev":1,"changed":false},"err":""}',
        encode(RECORDS[5]).replace('["k"', '[["k"]'),
        encode(RECORDS[0]).replace("b64:", "b64:?"),
        encode(RECORDS[4])[:-4],
        encode(RECORDS[9]).replace('"v":1', '"v":2'),
        encode(RECORDS[10]).replace("renewed", "forgotten"),
        encode(RECORDS[12]).replace('"won"', '"lost it"'),
        encode(RECORDS[13]).replace("begin", "middle"),
        encode(RECORDS[14]).replace('"op":"Put",', ""),
    ],
)
def test_lines_that_are_no_records(line: str) -> None:
    with pytest.raises(HistoryError, match="line 2 "):
        list(read([encode(RECORDS[0]), line]))


class Ticks:
    """A clock that a test turns."""

    def __init__(self) -> None:
        self.seconds = 1.5

    def mono(self) -> float:
        return self.seconds

    def wall(self) -> float:
        raise AssertionError("histories know no wall clock")


def test_the_recorder_reads_its_clock() -> None:
    clock = Ticks()
    recorder = Recorder(clock=clock)
    first = recorder.begin("c", "Put", b"x", endpoint="n1")
    clock.seconds = 2
    recorder.end(first, "ok", revision=4, changed=True, response=b"y")
    recorder.fault("kill", "begin", "n1")
    assert recorder.new_id() != first
    assert recorder.new_watcher("c") != recorder.new_watcher("c")
    assert recorder.records == [
        Call(id=first, client="c", ts=1_500_000_000, op="Put", request=b"x", endpoint="n1"),
        Return(id=first, ts=2_000_000_000, status="ok", revision=4, changed=True, response=b"y"),
        Fault(kind="kill", ts=2_000_000_000, phase="begin", on=("n1",)),
    ]


def test_the_machines_clock_goes_forward() -> None:
    recorder = Recorder()
    assert 0 < recorder.now() <= recorder.now()
