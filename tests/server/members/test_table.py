"""The table of members: what each change does to it, what refuses a change, and that it comes back."""

from __future__ import annotations

import pytest

from coord.runtime import InvariantViolation
from coord.wire import fast
from coord.wire import rpc_pb2 as pb
from coord_server import errors
from coord_server.apply import Applier
from coord_server.errors import ErrorSpec, Refused
from coord_server.member_records import (
    MemberNote,
    decode_membership,
    decode_notes,
    encode_membership,
    encode_notes,
    member_key,
    member_records,
    membership_of,
)
from coord_server.members import AppliedChange, Members
from coord_server.ops import OpKind, encode_batch
from coord_server.raft import (
    ChangeKind,
    ChangeStep,
    ConfigChange,
    Membership,
    NodeId,
    encode_change,
)
from coord_server.storage.backend import Batch, Bucket
from coord_server.storage.memory_backend import MemoryBackend

ADD, LEARN, REMOVE, UPDATE = (
    ChangeKind.ADD_VOTER,
    ChangeKind.ADD_LEARNER,
    ChangeKind.REMOVE,
    ChangeKind.UPDATE,
)


def member(number: int, *urls: str, name: str = "", learner: bool = False) -> pb.Member:
    return pb.Member(
        ID=number, name=name, peerURLs=urls or [f"http://m{number}:2380"], isLearner=learner
    )


def three(*, learner: bool = False) -> Members:
    founders = [member(number, name=f"n{number}") for number in (1, 2, 3)]
    if learner:
        founders.append(member(4, name="n4", learner=True))
    return Members(member_records(founders))


def one_step(kind: ChangeKind, number: int) -> ConfigChange:
    return ConfigChange((ChangeStep(kind, NodeId(number)),))


def change(
    table: Members, kind: ChangeKind, number: int, *urls: str, promote: bool = False, limit: int = 1
) -> ErrorSpec | None:
    note = MemberNote(
        member=pb.Member(ID=number, peerURLs=urls), is_promote=promote, max_learners=limit
    )
    return table.apply_change(one_step(kind, number), encode_notes(note))


def content(table: Members) -> list[tuple[bytes, bytes]]:
    """Everything about a table that a member could differ in."""
    records = member_records(table.members())[:-1]
    return [*records, (b"", encode_membership(table.membership))]


def flush(table: Members, backend: MemoryBackend) -> None:
    batch = Batch()
    table.take(batch)
    backend.write(batch)


# kind, id, urls, promote, limit of learners -> refusal
REFUSALS: list[tuple[ChangeKind, int, list[str], bool, int, ErrorSpec]] = [
    (ADD, 3, ["http://new:1"], False, 1, errors.MEMBER_EXIST),
    (LEARN, 4, ["http://new:1"], False, 9, errors.MEMBER_EXIST),
    (ADD, 8, ["http://m2:2380"], False, 1, errors.PEER_URL_EXIST),
    (LEARN, 8, ["http://ok:1", "http://m4:2380"], False, 2, errors.PEER_URL_EXIST),
    (LEARN, 8, ["http://ok:1"], False, 1, errors.TOO_MANY_LEARNERS),
    (REMOVE, 8, [], False, 1, errors.MEMBER_NOT_FOUND),
    (UPDATE, 8, ["http://ok:1"], False, 1, errors.MEMBER_NOT_FOUND),
    (UPDATE, 1, ["http://m2:2380"], False, 1, errors.PEER_URL_EXIST),
    (ADD, 8, [], True, 1, errors.MEMBER_NOT_FOUND),
    (ADD, 1, [], True, 1, errors.MEMBER_NOT_LEARNER),
]


@pytest.mark.parametrize(("kind", "number", "urls", "promote", "limit", "refusal"), REFUSALS)
def test_a_change_that_does_not_fit_is_refused_and_changes_nothing(
    kind: ChangeKind, number: int, urls: list[str], promote: bool, limit: int, refusal: ErrorSpec
) -> None:
    table = three(learner=True)
    before = content(table)
    heard: list[None] = []
    table.listen(lambda: heard.append(None))
    assert change(table, kind, number, *urls, promote=promote, limit=limit) is refusal
    assert content(table) == before
    assert heard == []
    batch = Batch()
    table.take(batch)
    assert len(batch) == 0


def test_a_voter_joins_without_a_name() -> None:
    table = three()
    assert change(table, ADD, 8, "http://b:1", "http://a:1") is None
    added = table.get(8)
    assert added is not None
    assert (added.name, list(added.peerURLs), added.isLearner) == (
        "",
        ["http://b:1", "http://a:1"],
        False,
    )
    assert table.membership.voters == (1, 2, 3, 8)
    assert table.peer_urls()[8] == ("http://b:1", "http://a:1")


def test_a_learner_joins_and_becomes_a_voter() -> None:
    table = three()
    assert change(table, LEARN, 8, "http://a:1") is None
    assert table.is_learner(8)
    assert table.membership == Membership(voters=ids(1, 2, 3), learners=ids(8))
    assert change(table, ADD, 8, promote=True) is None
    assert not table.is_learner(8)
    assert table.membership == Membership(voters=ids(1, 2, 3, 8))
    promoted = table.get(8)
    assert promoted is not None
    assert list(promoted.peerURLs) == ["http://a:1"]
    assert change(table, ADD, 8, promote=True) is errors.MEMBER_NOT_LEARNER


def test_the_limit_of_learners_travels_with_the_change() -> None:
    table = three(learner=True)
    assert change(table, LEARN, 8, "http://a:1", limit=2) is None
    assert change(table, LEARN, 9, "http://b:1", limit=2) is errors.TOO_MANY_LEARNERS
    assert change(table, ADD, 9, "http://b:1", limit=0) is None


def test_an_update_replaces_peer_urls_and_nothing_else() -> None:
    table = three(learner=True)
    table.apply_attributes(
        pb.Member(ID=4, name="n4", clientURLs=["http://c:1"]).SerializeToString()
    )
    assert change(table, UPDATE, 4, "http://elsewhere:1") is None
    assert change(table, UPDATE, 4, "http://elsewhere:1") is None  # its own URL is not taken
    assert table.get(4) == pb.Member(
        ID=4,
        name="n4",
        peerURLs=["http://elsewhere:1"],
        clientURLs=["http://c:1"],
        isLearner=True,
    )
    assert table.membership.learners == (4,)


def test_a_removed_id_never_returns() -> None:
    table = three()
    assert change(table, REMOVE, 2) is None
    assert table.is_removed(2)
    assert table.get(2) is None
    assert [m.ID for m in table.members()] == [1, 3]
    assert table.membership.voters == (1, 3)
    assert change(table, ADD, 2, "http://new:1") is errors.MEMBER_NOT_FOUND
    assert change(table, REMOVE, 2) is errors.MEMBER_NOT_FOUND
    assert change(table, UPDATE, 2, "http://new:1") is errors.MEMBER_NOT_FOUND
    # Its address may: somebody else lives there now.
    assert change(table, ADD, 8, "http://m2:2380") is None


def test_the_last_voter_stays() -> None:
    table = Members(member_records([member(1), member(2, learner=True)]))
    assert change(table, REMOVE, 1) is errors.MEMBER_NOT_ENOUGH_STARTED
    assert change(table, REMOVE, 2) is None


def test_a_member_tells_its_name_and_client_urls() -> None:
    table = three()
    heard: list[list[str]] = []
    table.listen(lambda: heard.append([m.name for m in table.members()]))
    payload = pb.Member(
        ID=2, name="two", clientURLs=["http://c:1"], peerURLs=["http://lie:1"], isLearner=True
    ).SerializeToString()
    table.apply_attributes(payload)
    assert table.get(2) == pb.Member(
        ID=2, name="two", peerURLs=["http://m2:2380"], clientURLs=["http://c:1"]
    )
    assert heard == [["n1", "two", "n3"]]
    change(table, REMOVE, 2)
    table.apply_attributes(payload)
    assert table.get(2) is None
    with pytest.raises(Refused, match="member not found"):
        table.apply_attributes(pb.Member(ID=77).SerializeToString())


def test_records_that_were_handed_out_do_not_change() -> None:
    table = three()
    before = table.members()
    copies = [pb.Member.FromString(m.SerializeToString()) for m in before]
    change(table, UPDATE, 1, "http://else:1")
    table.apply_attributes(pb.Member(ID=2, name="x").SerializeToString())
    assert before == copies


def test_two_members_are_exchanged_through_a_joint_phase() -> None:
    table = three()
    steps = (ChangeStep(ADD, NodeId(8)), ChangeStep(REMOVE, NodeId(1)))
    notes = encode_notes(MemberNote(member=pb.Member(peerURLs=["http://new:1"])), MemberNote())
    assert table.apply_change(ConfigChange(steps), notes) is None
    joint = Membership(voters=ids(2, 3, 8), outgoing=ids(1, 2, 3))
    assert table.membership == joint
    # The one who leaves still takes part, so it must still be reached.
    assert table.peer_urls()[1] == ("http://m1:2380",)
    assert [m.ID for m in table.members()] == [2, 3, 8]
    assert change(table, ADD, 9, "http://z:1") is errors.UNHEALTHY
    backend = MemoryBackend()
    for record in member_records([member(number, name=f"n{number}") for number in (1, 2, 3)]):
        put(backend, *record)
    flush(table, backend)
    again = Members(backend.scan(Bucket.MEMBERS))
    assert again.membership == joint
    assert again.peer_urls() == table.peer_urls()
    assert again.apply_change(ConfigChange(leave=True), b"") is None
    assert again.membership == Membership(voters=ids(2, 3, 8))
    assert sorted(again.peer_urls()) == [2, 3, 8]
    assert again.apply_change(ConfigChange(leave=True), b"") is errors.UNHEALTHY


def test_a_refused_step_takes_the_whole_change_back() -> None:
    table = three()
    before = content(table)
    steps = (ChangeStep(ADD, NodeId(8)), ChangeStep(REMOVE, NodeId(77)))
    notes = encode_notes(MemberNote(member=pb.Member(peerURLs=["http://new:1"])), MemberNote())
    assert table.apply_change(ConfigChange(steps), notes) is errors.MEMBER_NOT_FOUND
    assert content(table) == before


def test_asking_changes_nothing() -> None:
    table = three()
    before = content(table)
    note = encode_notes(MemberNote(member=pb.Member(peerURLs=["http://new:1"])))
    assert table.refusal(one_step(ADD, 8), note) is None
    assert table.refusal(one_step(ADD, 3), note) is errors.MEMBER_EXIST
    assert content(table) == before


def test_a_listener_can_leave() -> None:
    table = three()
    heard: list[None] = []
    stop = table.listen(lambda: heard.append(None))
    change(table, REMOVE, 1)
    stop()
    stop()
    change(table, REMOVE, 2)
    assert len(heard) == 1


# Bytes.


def test_notes_survive_the_log() -> None:
    notes = [
        MemberNote(),
        MemberNote(member=member(7, "http://a:1"), is_promote=True, max_learners=3),
    ]
    raw = encode_notes(*notes)
    assert decode_notes(raw) == notes
    assert decode_notes(b"") == []
    edge = len(encode_notes(notes[0]))
    for cut in range(1, len(raw)):
        if cut != edge:
            with pytest.raises(ValueError, match="cut off"):
                decode_notes(raw[:cut])
    with pytest.raises(ValueError, match="unknown kind"):
        decode_notes(b"\x09" + raw[1:])
    with pytest.raises(ValueError, match="no member"):
        decode_notes(b"\x00\x00\x01\x00\x00\x00\x01\xff")


def test_memberships_survive_the_backend() -> None:
    whole = Membership(
        voters=ids(1, 1 << 63), outgoing=ids(1, 5), learners=ids(7), learners_next=ids(5)
    )
    for membership in (Membership(), whole):
        assert decode_membership(encode_membership(membership)) == membership
    raw = encode_membership(whole)
    for cut in range(len(raw)):
        with pytest.raises(ValueError, match="cut off"):
            decode_membership(raw[:cut])
    with pytest.raises(ValueError, match="unknown format"):
        decode_membership(b"\x07" + raw[1:])


def test_a_directory_of_the_first_version_has_one_voter() -> None:
    lone = member(5, name="default")
    table = Members([(member_key(5), lone.SerializeToString())])
    assert table.membership == Membership(voters=ids(5))
    assert table.members() == [lone]


def test_damage_is_noticed() -> None:
    with pytest.raises(ValueError, match="no key"):
        Members([(b"odd", b"")])
    records = member_records([member(1), member(2)])
    with pytest.raises(InvariantViolation, match="same members"):
        Members(records[1:])
    with pytest.raises(InvariantViolation, match="does not return"):
        Members([*records, (b"removed/" + member_key(2), member(2).SerializeToString())])
    with pytest.raises(InvariantViolation, match="no more notes"):
        three().apply_change(ConfigChange(), encode_notes(MemberNote()))


# In the applied state.


def put(backend: MemoryBackend, key: bytes, value: bytes) -> None:
    batch = Batch()
    batch.put(Bucket.MEMBERS, key, value)
    backend.write(batch)


def started(*numbers: int) -> tuple[MemoryBackend, Applier]:
    backend = MemoryBackend()
    for record in member_records([member(number) for number in numbers]):
        put(backend, *record)
    return backend, Applier(backend, fast.HeaderStamp(1, 2))


def save(applier: Applier, backend: MemoryBackend) -> None:
    batch = applier.take_batch()
    assert batch is not None
    backend.write(batch)
    applier.flushed()


def test_a_change_and_its_index_reach_the_backend_together() -> None:
    backend, applier = started(1, 2)
    learn = one_step(LEARN, 8)
    data = encode_change(learn, encode_notes(MemberNote(member=member(8))))
    assert applier.apply_config(1, 3, data) == AppliedChange(learn, None)
    assert (applier.applied_index, applier.term, applier.pending_ops) == (1, 3, 1)
    batch = applier.take_batch()
    assert batch is not None
    assert {key for _, key, _ in batch.puts} == {
        b"applied_index",
        b"applied_term",
        member_key(8),
        b"membership",
    }
    backend.write(batch)
    applier.flushed()
    again = Applier(backend, fast.HeaderStamp(1, 2))
    assert content(again.members) == content(applier.members)
    assert again.applied_index == 1
    assert again.apply_config(1, 3, data) == AppliedChange(None, None)
    assert again.apply_config(2, 3, data) == AppliedChange(None, errors.MEMBER_EXIST)
    assert again.applied_index == 2


def test_a_removal_is_remembered_over_a_restart() -> None:
    backend, applier = started(1, 2)
    applier.apply_config(1, 1, encode_change(one_step(REMOVE, 2), b""))
    save(applier, backend)
    again = Applier(backend, fast.HeaderStamp(1, 2))
    assert again.members.is_removed(2)
    assert again.members.membership == Membership(voters=ids(1))
    add = encode_change(one_step(ADD, 2), encode_notes(MemberNote(member=member(2, "http://n:1"))))
    assert again.apply_config(2, 1, add).refusal is errors.MEMBER_NOT_FOUND


def test_attributes_are_an_operation_like_others() -> None:
    backend, applier = started(1, 2)
    told = pb.Member(ID=2, name="two", clientURLs=["http://c:1"])
    stranger = pb.Member(ID=9, name="nine")
    data = encode_batch(
        [(OpKind.MEMBER_ATTRIBUTES, m.SerializeToString()) for m in (told, stranger)]
    )
    (answer, refused) = applier.apply(1, 4, data, answers=True).results
    assert isinstance(answer, bytes)
    header = pb.MemberListResponse.FromString(answer).header
    assert (header.member_id, header.raft_term) == (2, 4)
    assert refused is errors.MEMBER_NOT_FOUND
    save(applier, backend)
    again = Applier(backend, fast.HeaderStamp(1, 2)).members.get(2)
    assert again is not None
    assert (again.name, list(again.clientURLs)) == ("two", ["http://c:1"])
    assert applier.take_batch() is None


def test_what_is_no_change_stops_the_member() -> None:
    _, applier = started(1)
    with pytest.raises(ValueError, match="cut off"):
        applier.apply_config(1, 1, b"\x01")
    with pytest.raises(ValueError, match="cut off"):
        applier.apply_config(1, 1, encode_change(one_step(ADD, 8), b"\x00"))
    assert applier.applied_index == 0


def test_a_table_is_read_anew_and_its_listeners_stay() -> None:
    table = three()
    heard: list[int] = []
    table.listen(lambda: heard.append(len(table.members())))
    founders = [member(7), member(6, learner=True)]
    table.load(member_records(founders))
    assert heard == [2]
    assert [m.ID for m in table.members()] == [6, 7]
    assert table.membership == membership_of(founders)
    batch = Batch()
    table.take(batch)
    assert len(batch) == 0


def ids(*numbers: int) -> tuple[NodeId, ...]:
    return tuple(NodeId(number) for number in numbers)
