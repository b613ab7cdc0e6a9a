"""The log in memory, and majorities."""

from __future__ import annotations

import pytest

from coord.runtime import InvariantViolation
from coord_server.raft import Entry, EntryKind, Index, NodeId, RaftLog, Term
from coord_server.raft.quorum import has_majority, majority, quorum_index


def entry(index: int, term: int) -> Entry:
    return Entry(Term(term), Index(index), EntryKind.NORMAL, b"")


def filled() -> RaftLog:
    return RaftLog(
        base_index=Index(10), base_term=Term(2), entries=[entry(11, 2), entry(12, 4), entry(13, 4)]
    )


def test_terms_are_known_from_the_base_on() -> None:
    log = filled()
    assert [log.term_at(Index(i)) for i in range(9, 15)] == [None, 2, 2, 4, 4, None]
    assert (log.last_index, log.last_term) == (13, 4)
    empty = RaftLog(base_index=Index(10), base_term=Term(2))
    assert (empty.last_index, empty.last_term, empty.term_at(Index(10))) == (10, 2, 2)


def test_a_batch_ends_where_it_is_told_to() -> None:
    log = filled()
    assert [e.index for e in log.batch(Index(10), 99, upto=Index(12))] == [11, 12]
    assert log.batch(Index(13), 99, upto=Index(13)) == ()
    for after, upto in ((9, 11), (12, 14)):
        with pytest.raises(InvariantViolation):
            log.batch(Index(after), 99, upto=Index(upto))


def test_the_log_takes_only_what_follows() -> None:
    log = filled()
    for wrong in (entry(13, 4), entry(15, 4), entry(14, 3)):
        with pytest.raises(InvariantViolation):
            log.append(wrong)


def test_compaction_moves_the_base() -> None:
    log = filled()
    log.compact(Index(12))
    assert (log.base_index, log.base_term, log.last_index) == (12, 4, 13)
    assert log.term_at(Index(11)) is None
    log.compact(Index(5))
    log.compact(Index(12))
    assert log.base_index == 12
    with pytest.raises(InvariantViolation):
        log.compact(Index(14))


def test_majorities() -> None:
    assert [majority(n) for n in range(1, 7)] == [1, 2, 2, 3, 3, 4]
    one, two, three = NodeId(1), NodeId(2), NodeId(3)
    assert has_majority((one,), {one})
    assert not has_majority((one, two), {one})
    assert has_majority((one, two, three), {three, one, NodeId(9)})
    assert not has_majority((one, two, three), {NodeId(9), NodeId(8), one})
    match = {one: Index(5), two: Index(3), three: Index(9), NodeId(4): Index(99)}
    assert quorum_index((one, two, three), match) == 5
    assert quorum_index((one, two), match) == 3
    assert quorum_index((three,), match) == 9


def test_batches_are_bounded_by_bytes_and_hold_one_entry_at_least() -> None:
    log = RaftLog()
    for index, size in enumerate((3, 3, 9, 0), 1):
        log.append(Entry(Term(1), Index(index), EntryKind.NORMAL, b"x" * size))
    assert [e.index for e in log.batch(Index(0), 6)] == [1, 2]
    assert [e.index for e in log.batch(Index(2), 6)] == [3]
    assert [e.index for e in log.batch(Index(2), 9)] == [3, 4]
    assert log.batch(Index(4), 6) == ()
    assert log.data_bytes(Index(1), Index(3)) == 12


def test_agreement_skips_whole_terms() -> None:
    log = filled()  # 10@2 is the base, then 11@2 12@4 13@4
    assert log.agreement(Index(13), Term(4)) == 13
    assert log.agreement(Index(13), Term(3)) == 11
    assert log.agreement(Index(10), Term(9)) == 10
    # Even the base is of a later term, or the other log is shorter: somewhere before the base.
    assert log.agreement(Index(12), Term(1)) == 9
    assert log.agreement(Index(4), Term(4)) == 4


def test_truncation_keeps_the_base() -> None:
    log = filled()
    log.truncate(Index(11))
    assert (log.last_index, log.last_term) == (11, 2)
    with pytest.raises(InvariantViolation):
        log.truncate(Index(9))
    log.restart(Index(30), Term(7))
    assert (log.base_index, log.last_index, log.last_term) == (30, 30, 7)
