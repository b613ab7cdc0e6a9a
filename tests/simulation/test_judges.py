"""Rules and judges by hand: each lets pass what may be and names what may not."""

from __future__ import annotations

from typing import cast

import pytest

from coord.testing.history import Call, Record, Return
from coord.testing.sim.invariants import Member
from coord.testing.sim.judge import Evidence, Replay, check_compactions
from coord.testing.sim.lease_rules import LeaseTerm
from coord.testing.sim.log_rules import OneLog, ReadNumbers
from coord.wire import rpc_pb2
from coord_server.errors import COMPACTED
from coord_server.ops import OpKind, encode_batch, encode_in_term
from coord_server.raft import (
    Entry,
    EntryKind,
    Index,
    NodeId,
    ReadIndexRequest,
    ReadIndexResponse,
    Term,
)


class _Lessor:
    def __init__(self, *leases: int) -> None:
        self._leases = list(leases)

    def ids(self) -> list[int]:
        return self._leases


class _Member:
    name = "m"
    id = 1

    def __init__(self, *leases: int) -> None:
        self.lessor = _Lessor(*leases)
        self.core = _Core(1, 1)


def _expiry(term: int, lease: int) -> bytes:
    request = rpc_pb2.LeaseRevokeRequest(ID=lease).SerializeToString()
    inner = encode_in_term(term, OpKind.LEASE_EXPIRE, request)
    return encode_batch([(OpKind.IN_TERM, inner)])


@pytest.mark.parametrize(
    ("term", "left", "rules"),
    [(4, (), []), (3, (9,), []), (3, (), ["L2"])],
    ids=["in its term", "without effect", "with an effect"],
)
def test_an_expiry_of_another_term_ends_nothing(
    term: int, left: tuple[int, ...], rules: list[str]
) -> None:
    found: list[str] = []
    rule = LeaseTerm(lambda name, _node, _text: found.append(name), lambda: 0.0, lambda _: None)
    grant = rpc_pb2.LeaseGrantRequest(ID=9, TTL=5).SerializeToString()
    granted = encode_batch([(OpKind.LEASE_GRANT, grant)])
    rule.applied(cast("Member", _Member(9)), 1, 4, granted, 1)
    rule.applied(cast("Member", _Member(*left)), 2, 4, _expiry(term, 9), 1)
    assert found == rules


class _Core:
    """A log that holds nothing behind its base."""

    def __init__(self, base: int, term: int) -> None:
        self.first_index, self.last_index = base + 1, base
        self._term = term

    def term_at(self, index: int) -> int | None:
        return self._term if index == self.last_index else None


def _entries(first: int, last: int) -> list[Entry]:
    indexes = range(first, last + 1)
    return [Entry(Term(4), Index(i), EntryKind.NORMAL, str(i).encode()) for i in indexes]


def test_a_log_may_begin_anew_while_its_member_starts() -> None:
    """The snapshot was installed before a crash, and the start has finished that unseen."""
    found: list[str] = []
    rule = OneLog(lambda name, _node, _text: found.append(name))
    first, second = _Member(), _Member()
    second.id = 2
    rule.appending(cast("Member", first), _entries(2, 9), None)
    rule.appending(cast("Member", second), _entries(2, 4), None)
    second.core = _Core(7, 4)
    rule.opened(cast("Member", second))
    rule.appending(cast("Member", second), _entries(8, 9), None)
    assert found == []
    second.core = _Core(6, 3)
    rule.opened(cast("Member", second))
    rule.appending(cast("Member", second), _entries(7, 7), None)
    assert found == ["R3"]


@pytest.mark.parametrize(("index", "rules"), [(7, []), (6, ["R10"])])
def test_a_read_index_is_not_older_than_the_question(index: int, rules: list[str]) -> None:
    found: list[str] = []
    rule = ReadNumbers(lambda name, _node, _text: found.append(name))
    asker, leader = cast("Member", _Member()), cast("Member", _Member())
    rule.applied(leader, 7, 1, b"", 1)
    one, other, term = NodeId(1), NodeId(2), Term(1)
    question = ReadIndexRequest(sender=one, to=other, term=term, context=5)
    rule.sending(asker, [question])
    rule.applied(leader, 8, 1, b"", 1)
    answer = ReadIndexResponse(sender=other, to=one, term=term, context=5, index=Index(index))
    rule.sending(leader, [answer])
    assert found == rules


@pytest.mark.parametrize(("asked", "rules"), [(4, []), (3, ["compaction"])])
def test_a_read_is_refused_as_compacted_only_if_it_was(asked: int, rules: list[str]) -> None:
    compaction = rpc_pb2.CompactionRequest(revision=asked).SerializeToString()
    read = rpc_pb2.RangeRequest(key=b"k", revision=3).SerializeToString()
    records: list[Record] = [
        Call(id=1, client="a", ts=1, op="Compact", request=compaction),
        Call(id=2, client="b", ts=2, op="Range", request=read),
        Return(id=2, ts=3, status="fail", error=f"OUT_OF_RANGE: {COMPACTED.message}"),
    ]
    evidence = Evidence(records=records, answers={}, log={})
    assert [finding.rule for finding in check_compactions(evidence, Replay({}))] == rules
