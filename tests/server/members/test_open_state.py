"""Log, backend and raft of a member at its start: as a founder, as one who joins, again, and alone."""

from __future__ import annotations

from typing import NamedTuple, cast

import pytest

from coord.wire import rpc_pb2 as pb
from coord_server.bootstrap import BootstrapError, DataDirError, Identity, open_data_dir
from coord_server.config import load
from coord_server.config_check import parse_initial_cluster
from coord_server.initial_cluster import Beginning, founded, settle
from coord_server.member_records import MemberNote, encode_notes
from coord_server.members import AppliedChange
from coord_server.raft import (
    ChangeKind,
    ChangeStep,
    ConfigChange,
    Entry,
    EntryKind,
    HardState,
    Index,
    Membership,
    NodeId,
    RaftConfig,
    RaftLog,
    Term,
    encode_change,
)
from coord_server.state import State, open_state
from coord_server.storage.memory_backend import MemoryBackend
from coord_server.storage.memory_disk import MemoryDisk
from coord_server.storage.wal import Wal
from tests.server.members.surroundings import quiet

THREE = "a=http://m1:1,b=http://m2:1,c=http://m3:1"


def founder() -> Beginning:
    return founded(parse_initial_cluster(THREE), "a", "tok")


class Given(NamedTuple):
    """What raft is made of, in place of a core: here only its beginning matters."""

    config: RaftConfig
    hard_state: HardState
    log: RaftLog
    applied: Index = Index(0)


@pytest.fixture(autouse=True)
def no_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coord_server.state.RaftCore", Given)


def given(state: State) -> tuple[Membership, int, int, int, int]:
    """Membership, term, commit index, base and end of the log."""
    core = cast("Given", state.core)
    numbers = (
        core.hard_state.term,
        core.hard_state.commit,
        core.log.base_index,
        core.log.last_index,
    )
    return core.config.membership, *numbers


class Place:
    """A disk on which a member is started, several times."""

    def __init__(self) -> None:
        self.disk = MemoryDisk()

    def open(self, *flags: str, beginning: Beginning | None = None) -> State:
        config = load(["--data-dir=/d", *flags], {}, lambda _path: b"")
        data_dir, _ = open_data_dir(self.disk, config)
        try:
            return open_state(
                config,
                self.disk,
                data_dir,
                make_backend=lambda path: MemoryBackend(self.disk, path),
                log=quiet()[0],
                beginning=beginning,
            )
        finally:
            data_dir.close()


def test_a_founder_begins_behind_the_founding() -> None:
    place = Place()
    beginning = founder()
    voters = tuple(NodeId(member.ID) for member in beginning.members)
    for first in (True, False):
        state = place.open(beginning=beginning if first else None)
        assert state.is_new is first
        assert state.identity == beginning.identity
        assert state.applier.members.membership == Membership(voters=voters)
        assert given(state) == (Membership(voters=voters), 1, 1, 1, 1)
        state.close()


def test_one_who_joins_begins_with_nothing() -> None:
    place = Place()
    identity = Identity(member_id=9, cluster_id=77)
    beginning = Beginning(identity=identity, members=(), index=0, term=0)
    for first in (True, False):
        state = place.open(beginning=beginning if first else None)
        assert state.identity == identity
        assert state.applier.members.membership == Membership()
        assert given(state) == (Membership(), 0, 0, 0, 0)
        state.close()


def test_a_log_that_is_lost_is_not_replaced() -> None:
    place = Place()
    state = place.open(beginning=founder())
    applier = state.applier
    applier.apply(2, 2, b"", answers=False)
    batch = applier.take_batch()
    assert batch is not None
    state.backend.write(batch)
    state.close()
    for name in place.disk.listdir("/d/member/wal"):
        place.disk.unlink(f"/d/member/wal/{name}")
    with pytest.raises(DataDirError, match="is missing, but /d/member/store holds data"):
        place.open(beginning=founder())


def test_a_start_that_was_cut_between_backend_and_log_begins_again() -> None:
    place = Place()
    place.disk.mkdir("/d/member/store")
    backend = MemoryBackend(place.disk, "/d/member/store")
    settle(backend, founded({"x": ()}, "x", "tok"))
    backend.close()
    state = place.open(beginning=founder())
    assert state.applier.members.members() == list(founder().members)
    state.close()


def change(index: int, kind: ChangeKind, number: int, *urls: str) -> Entry:
    note = MemberNote(member=pb.Member(peerURLs=urls))
    data = encode_change(ConfigChange((ChangeStep(kind, NodeId(number)),)), encode_notes(note))
    return Entry(Term(2), Index(index), EntryKind.CONFIG, data)


def grow(place: Place, *entries: Entry) -> None:
    """Found a cluster of three, and give this member's log more entries."""
    state = place.open(beginning=founder())
    last = entries[-1].index
    state.wal.append(HardState(term=Term(2), vote=NodeId(0), commit=last), entries)
    state.close()


def test_a_forced_member_is_alone_and_stays_so() -> None:
    place = Place()
    grow(
        place,
        change(2, ChangeKind.ADD_VOTER, 7, "http://m7:1"),
        Entry(Term(2), Index(3), EntryKind.NORMAL, b""),
    )
    own = NodeId(founder().identity.member_id)
    for flags in (["--force-new-cluster"], [], ["--force-new-cluster"]):
        state = place.open(*flags)
        assert state.applier.members.membership == Membership(voters=(own,))
        assert state.applier.applied_index == 3
        assert given(state) == (Membership(voters=(own,)), 2, 3, 3 if flags else 1, 3)
        # Raft may hand out again what was applied; nothing comes of it.
        again = change(2, ChangeKind.ADD_VOTER, 7, "http://m7:1")
        assert state.applier.apply_config(2, 2, again.data) == AppliedChange(None, None)
        state.close()


def test_a_removed_member_does_not_open() -> None:
    place = Place()
    own = founder().identity.member_id
    state = place.open(beginning=founder())
    entry = change(2, ChangeKind.REMOVE, own)
    state.applier.apply_config(entry.index, entry.term, entry.data)
    state.wal.append(HardState(term=Term(2), vote=NodeId(0), commit=Index(2)), [entry])
    batch = state.applier.take_batch()
    assert batch is not None
    state.backend.write(batch)
    state.close()
    with pytest.raises(BootstrapError, match="has been permanently removed from the cluster"):
        place.open()


def test_a_log_of_the_first_version_is_cut_behind_its_first_entry() -> None:
    place = Place()
    lone = founded({"a": ()}, "a", "tok")
    place.disk.mkdir("/d/member")
    wal = Wal.create(place.disk, "/d/member/wal", lone.identity.to_metadata())
    entries = [Entry(Term(1), Index(n), EntryKind.NORMAL, b"") for n in (1, 2)]
    wal.append(HardState(term=Term(1), vote=NodeId(0), commit=Index(2)), entries)
    wal.close()
    place.disk.mkdir("/d/member/store")
    backend = MemoryBackend(place.disk, "/d/member/store")
    settle(backend, lone)
    backend.close()
    place.disk.write_file_atomic("/d/member/FORMAT", b'{"program": "coord-server", "format": 1}')
    state = place.open()
    assert given(state)[1:] == (1, 2, 1, 2)
    state.close()
