"""The queues of proposals and of waiting reads."""

from __future__ import annotations

from coord_server import errors
from coord_server.errors import ErrorSpec
from coord_server.ops import decode_batch
from coord_server.proposals import Proposals
from coord_server.read_queue import ReadQueue
from tests.server.member import Answers

SPEC = errors.TIMEOUT
REFUSED = (int(SPEC.code), SPEC.message)


def test_a_batch_holds_what_fits_in_order() -> None:
    queue = Proposals(max_ops=100, max_bytes=1000)
    answers = Answers()
    for n, size in enumerate([10, 10, 30, 500, 5]):
        assert queue.add(n + 1, b"x" * size, answers, n, tick=n)
    taken: list[list[int]] = []
    while (batch := queue.take(max_ops=2, max_bytes=45)) is not None:
        taken.append([kind for kind, _ in decode_batch(batch.data)])
        assert batch.tick == taken[-1][0] - 1
        batch.answer([b"ok"] * len(taken[-1]))
        assert not batch.awaited
    assert taken == [[1, 2], [3], [4], [5]]
    assert answers.given == dict.fromkeys(range(5), b"ok")


def test_there_is_room_for_so_much() -> None:
    answers = Answers()
    by_count = Proposals(max_ops=2, max_bytes=1000)
    assert [by_count.add(1, b"x", answers, n, tick=0) for n in range(3)] == [True, True, False]
    by_bytes = Proposals(max_ops=100, max_bytes=10)
    assert [by_bytes.add(1, b"x" * 6, answers, n, tick=0) for n in range(3)] == [True, True, False]
    by_bytes.take(max_ops=1, max_bytes=100)
    assert by_bytes.add(1, b"x", answers, 3, tick=0)
    by_bytes.forget()
    assert len(by_bytes) == 0
    assert by_bytes.add(1, b"x" * 10, answers, 4, tick=0)
    assert answers.given == {}


def test_the_old_ones_are_refused() -> None:
    queue = Proposals(max_ops=100, max_bytes=1000)
    answers = Answers()
    for n in range(4):
        queue.add(1, b"x", answers, n, tick=n)
    queue.fail_before(1, SPEC)
    queue.fail_before(1, SPEC)
    assert answers.given == {0: REFUSED, 1: REFUSED}
    batch = queue.take(max_ops=10, max_bytes=100)
    assert batch is not None
    batch.fail(SPEC)
    batch.fail(SPEC)
    assert sorted(answers.given) == [0, 1, 2, 3]


def test_reads_go_through_their_stages() -> None:
    queue = ReadQueue()
    log: list[str | ErrorSpec] = []

    def add(name: str, tick: int) -> bool:
        return queue.add(lambda: log.append(name), log.append, tick)

    assert queue.ask() is None
    assert [add("a", 1), add("b", 2)] == [True, False]
    first = queue.ask()
    assert add("c", 3)
    second = queue.ask()
    assert add("d", 4)
    assert first is not None
    assert second is not None
    queue.ready(first, 10)
    queue.ready(second, 8)
    assert len(queue) == 4
    queue.serve(7)
    assert log == []
    queue.serve(8)
    assert log == ["c"]
    queue.fail_before(1, SPEC)
    assert log == ["c", SPEC]
    queue.serve(10)
    assert log == ["c", SPEC, "b"]
    assert len(queue) == 1
    queue.fail_before(4, SPEC)
    assert log == ["c", SPEC, "b", SPEC]
    assert len(queue) == 0
    add("e", 5)
    queue.forget()
    assert (len(queue), queue.ask()) == (0, None)
