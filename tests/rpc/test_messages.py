"""Cutting payload into messages, and keeping many deadlines with one timer."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coord.rpc.deadlines import DeadlineWheel
from coord.rpc.messages import MessageReader, frame_message
from coord.rpc.status import RpcError, StatusCode

MESSAGES = st.lists(st.binary(max_size=40), max_size=10)
SPLITS = st.lists(st.integers(0, 30), max_size=40)


@given(MESSAGES, SPLITS, st.integers(0, 44))
def test_messages_come_whole_and_in_order(
    messages: list[bytes], splits: list[int], cut: int
) -> None:
    data = b"".join(frame_message(message) for message in messages)
    data += frame_message(bytes(40))[:cut]
    reader = MessageReader(40)
    found: list[bytes] = []
    rest = data
    for size in splits:
        found += reader.feed(rest[:size])
        rest = rest[size:]
    found += reader.feed(rest)
    assert found == messages
    assert reader.pending_bytes == cut


@pytest.mark.parametrize("split", [1, 3, 5, 100])
def test_size_is_judged_by_the_prefix(split: int) -> None:
    pieces = [frame_message(bytes(11))[:5][start : start + split] for start in range(0, 5, split)]
    reader = MessageReader(10)
    assert reader.feed(frame_message(bytes(10))) == [bytes(10)]
    for piece in pieces[:-1]:
        assert reader.feed(piece) == []
    with pytest.raises(RpcError) as caught:
        reader.feed(pieces[-1])
    assert caught.value.code is StatusCode.RESOURCE_EXHAUSTED
    assert caught.value.message == "grpc: received message larger than max (11 vs. 10)"


def test_compressed_flag_is_refused() -> None:
    with pytest.raises(RpcError) as caught:
        MessageReader(10).feed(b"\1\0\0\0\0")
    assert caught.value.code is StatusCode.INTERNAL


@given(
    st.lists(st.tuples(st.floats(0, 10), st.booleans()), max_size=60),
    st.lists(st.floats(0, 0.5), max_size=30),
)
def test_deadlines_fire_once_never_early_and_at_most_a_slot_late(
    deadlines: list[tuple[float, bool]], steps: list[float]
) -> None:
    wheel = DeadlineWheel()
    slots = [wheel.add(when, key) for key, (when, _) in enumerate(deadlines)]
    for key, (_, removed) in enumerate(deadlines):
        if removed:
            wheel.remove(slots[key], key)
            wheel.remove(slots[key], key)
    expected = {key for key, (_, removed) in enumerate(deadlines) if not removed}
    fired: list[int] = []
    now = 0.0
    for step in [*steps, 11.0]:
        now += step
        due = wheel.pop_due(now)
        for key in due:
            assert deadlines[key][0] <= now
        fired += due
        waiting = [deadlines[key][0] for key in expected - set(fired)]
        assert all(when > now - 0.011 for when in waiting)
        assert wheel.next_at <= min(waiting, default=math.inf) + 0.011
        assert wheel.next_at > now or not waiting
    assert sorted(fired) == sorted(expected)
    assert wheel.next_at == math.inf


def test_wheel_forgets_slots_that_emptied() -> None:
    wheel = DeadlineWheel()
    for key in range(1000):
        wheel.remove(wheel.add(5.0 + key, key), key)
    assert wheel.pop_due(1.0) == []
    assert wheel.next_at == math.inf


def test_infinite_deadline_never_fires() -> None:
    wheel = DeadlineWheel()
    slot = wheel.add(math.inf, 1)
    assert wheel.pop_due(1e12) == []
    wheel.remove(slot, 1)
    assert wheel.pop_due(1e12) == []
    assert wheel.next_at == math.inf
