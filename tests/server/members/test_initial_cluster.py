"""How a member without a log begins: who founds a cluster, who joins one, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from coord.rpc.status import RpcError, StatusCode
from coord.wire import fast
from coord.wire import rpc_pb2 as pb
from coord_server.apply import Applier
from coord_server.bootstrap import BootstrapError, Identity
from coord_server.config import load
from coord_server.force_new import force_new_cluster
from coord_server.initial_cluster import (
    Beginning,
    check_recovered,
    is_blank,
    plan_beginning,
    settle,
)
from coord_server.member_ids import added_member_id, cluster_id, member_id
from coord_server.member_records import MemberNote, encode_notes
from coord_server.members import Members
from coord_server.ops import OpKind, encode_batch
from coord_server.raft import (
    ChangeKind,
    ChangeStep,
    ConfigChange,
    Entry,
    EntryKind,
    Index,
    Membership,
    NodeId,
    Term,
    encode_change,
)
from coord_server.storage.backend import Batch, Bucket
from coord_server.storage.memory_backend import MemoryBackend
from tests.server.members.surroundings import NoDns, Peers, quiet

# Taken from etcd 3.5.1, three members started with these URLs and the token "tok".
THREE = "a=http://127.0.0.1:42381,b=http://127.0.0.1:42382,c=http://127.0.0.1:42383"
IDS = {"a": 0x8148F5F77AE18818, "b": 0xE13EAB2DB031AB4F, "c": 0x29D96F0F436EA7E0}
CLUSTER = 0x2240EB61D1809825


async def begin(*flags: str, peers: Peers | None = None) -> Beginning:
    config = load(flags, {}, lambda _path: b"")
    log, _ = quiet()
    ask = peers if peers is not None else Peers({})
    return await plan_beginning(config, ask=ask, resolver=NoDns(), log=log)


def founder(name: str, cluster: str = THREE) -> list[str]:
    number = "abcd".index(name) + 1
    return [
        f"--name={name}",
        f"--initial-cluster={cluster}",
        f"--initial-advertise-peer-urls=http://127.0.0.1:4238{number}",
        "--initial-cluster-token=tok",
    ]


def running(cluster: int, *members: pb.Member) -> pb.MemberListResponse:
    return pb.MemberListResponse(header=pb.ResponseHeader(cluster_id=cluster), members=members)


def three_running(*, started: bool = True) -> list[pb.Member]:
    return [
        pb.Member(
            ID=IDS[name],
            name=name,
            peerURLs=[f"http://127.0.0.1:4238{number}"],
            clientURLs=[f"http://c{number}:1"] if started else [],
        )
        for number, name in enumerate("abc", 1)
    ]


async def test_founders_have_etcds_ids_and_one_state() -> None:
    backends: list[MemoryBackend] = []
    for name in "abc":
        beginning = await begin(*founder(name))
        assert beginning.identity == Identity(member_id=IDS[name], cluster_id=CLUSTER)
        assert [m.name for m in beginning.members] == ["c", "a", "b"]
        backend = MemoryBackend()
        settle(backend, beginning)
        backends.append(backend)
    for bucket in Bucket:
        contents = [list(backend.scan(bucket)) for backend in backends]
        assert contents[0] == contents[1] == contents[2]
    applier = Applier(backends[0], fast.HeaderStamp(1, 2))
    assert (applier.applied_index, applier.term) == (1, 1)
    voters = tuple(sorted(NodeId(number) for number in IDS.values()))
    assert applier.members.membership == Membership(voters=voters)
    assert applier.members.peer_urls()[IDS["b"]] == ("http://127.0.0.1:42382",)


async def test_a_member_alone_has_etcds_default_ids() -> None:
    beginning = await begin("--name=x")
    assert f"{beginning.identity.member_id:x}" == "8e9e05c52164694d"
    assert f"{beginning.identity.cluster_id:x}" == "cdf818194e3a8c32"
    assert [(m.name, list(m.peerURLs)) for m in beginning.members] == [
        ("x", ["http://localhost:2380"])
    ]


async def test_a_member_may_have_several_urls_in_any_order() -> None:
    both = "http://127.0.0.1:42381,http://127.0.0.1:42390"
    one = await begin("--name=a", f"--initial-advertise-peer-urls={both}")
    flipped = "a=http://127.0.0.1:42390,a=http://127.0.0.1:42381"
    two = await begin(
        "--name=a", f"--initial-cluster={flipped}", f"--initial-advertise-peer-urls={both}"
    )
    assert one == two
    assert one.identity.member_id == member_id(both.split(","), "etcd-cluster")


def test_ids_of_added_members_depend_on_the_second() -> None:
    urls = ["http://127.0.0.1:2", "http://127.0.0.1:1"]
    assert added_member_id(urls, 7) == added_member_id(reversed(urls), 7)
    assert added_member_id(urls, 7) != added_member_id(urls, 8)
    assert cluster_id([3, 1]) == cluster_id([1, 3])


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (
            ["--name=w", *founder("a")[1:]],
            'couldn\'t find local name "w" in the initial cluster configuration',
        ),
        (
            [*founder("a"), "--initial-advertise-peer-urls=http://127.0.0.1:42384"],
            (
                "--initial-cluster has a=http://127.0.0.1:42381 but missing from "
                "--initial-advertise-peer-urls=http://127.0.0.1:42384"
            ),
        ),
        (
            [*founder("a"), "--initial-advertise-peer-urls=http://127.0.0.1:42381,http://h:1"],
            (
                "--initial-advertise-peer-urls has http://h:1 but missing from "
                "--initial-cluster=a=http://127.0.0.1:42381"
            ),
        ),
        (
            founder("a", f"{THREE},d=http://127.0.0.1:42382"),
            f"initial cluster {THREE},d=http://127.0.0.1:42382 has duplicate url",
        ),
        (
            [*founder("a"), "--initial-cluster-state=existing"],
            (
                "cannot fetch cluster info from peer urls: "
                "could not retrieve cluster information from the given URLs"
            ),
        ),
    ],
)
async def test_what_cannot_be_founded(flags: list[str], text: str) -> None:
    with pytest.raises(BootstrapError) as caught:
        await begin(*flags)
    assert str(caught.value) == text


async def test_founders_need_not_wait_for_each_other() -> None:
    peers = Peers({"http://127.0.0.1:42382": OSError("connection refused")})
    beginning = await begin(*founder("a"), peers=peers)
    assert not beginning.is_joining
    assert peers.asked == ["http://127.0.0.1:42382", "http://127.0.0.1:42383"]


async def test_a_founder_that_runs_already_is_not_founded_again() -> None:
    answer = running(CLUSTER, *three_running())
    with pytest.raises(BootstrapError, match=r"^member 8148f5f77ae18818 has already been boot"):
        await begin(*founder("a"), peers=Peers({"http://127.0.0.1:42383": answer}))
    # The others are up, and this one is still awaited.
    fresh = running(CLUSTER, *three_running(started=False))
    beginning = await begin(*founder("a"), peers=Peers({"http://127.0.0.1:42383": fresh}))
    assert beginning.identity.member_id == IDS["a"]


ADDED = pb.Member(ID=0x26A1564BEB9E0542, peerURLs=["http://127.0.0.1:42384"])
FOUR = f"{THREE},d=http://127.0.0.1:42384"
EXISTING = "--initial-cluster-state=existing"


async def test_an_added_member_finds_itself_by_its_urls() -> None:
    peers = Peers(
        {
            "http://127.0.0.1:42381": RpcError(StatusCode.UNAVAILABLE, "starting"),
            "http://127.0.0.1:42382": running(CLUSTER),
            "http://127.0.0.1:42383": running(CLUSTER, ADDED, *three_running()),
        }
    )
    renamed = FOUR.replace("b=", "elsewhere=")
    beginning = await begin(*founder("d", renamed), EXISTING, peers=peers)
    assert beginning.identity == Identity(member_id=ADDED.ID, cluster_id=CLUSTER)
    assert beginning.is_joining
    assert [m.ID for m in beginning.contacts] == sorted([ADDED.ID, *IDS.values()])
    backend = MemoryBackend()
    settle(backend, beginning)
    applier = Applier(backend, fast.HeaderStamp(1, 2))
    assert (applier.applied_index, applier.members.membership) == (0, Membership())


async def test_an_added_member_believes_whoever_knows_most() -> None:
    # One that lags behind still has the member that was here before, under the same URL.
    before = pb.Member(ID=0xDEAD, peerURLs=ADDED.peerURLs)
    old, new = (running(CLUSTER, *three_running(), member) for member in (before, ADDED))
    old.header.revision, new.header.revision = 17, 19
    for first, second in ((old, new), (new, old)):
        peers = Peers({"http://127.0.0.1:42381": first, "http://127.0.0.1:42383": second})
        beginning = await begin(*founder("d", FOUR), EXISTING, peers=peers)
        assert beginning.identity.member_id == ADDED.ID


@pytest.mark.parametrize(
    ("cluster", "reason"),
    [
        ("a=http://127.0.0.1:42381,d=http://127.0.0.1:42384", "member count is unequal"),
        (
            FOUR.replace("42382", "42399"),
            (
                "PeerURLs: no match found for existing member "
                "(e13eab2db031ab4f, [http://127.0.0.1:42382])"
            ),
        ),
    ],
)
async def test_the_list_must_fit_the_cluster_that_runs(cluster: str, reason: str) -> None:
    peers = Peers({"http://127.0.0.1:42381": running(CLUSTER, *three_running(), ADDED)})
    with pytest.raises(BootstrapError) as caught:
        await begin(*founder("d", cluster), EXISTING, peers=peers)
    text = str(caught.value)
    assert text.startswith(
        "error validating peerURLs {ClusterID:2240eb61d1809825 Members:[{ID:26a1"
    )
    assert text.endswith(f": {reason}")


async def test_an_interrupted_beginning_is_overwritten() -> None:
    backend = MemoryBackend()
    settle(backend, await begin(*founder("a")))
    assert is_blank(backend)
    settle(backend, await begin("--name=x"))
    assert [m.name for m in Members(backend.scan(Bucket.MEMBERS)).members()] == ["x"]
    batch = Batch()
    batch.put(Bucket.META, b"applied_index", (2).to_bytes(8, "big"))
    backend.write(batch)
    assert not is_blank(backend)


# Members that were there before.


def change(index: int, kind: ChangeKind, number: int, *urls: str) -> Entry:
    note = MemberNote(member=pb.Member(peerURLs=urls))
    data = encode_change(ConfigChange((ChangeStep(kind, NodeId(number)),)), encode_notes(note))
    return Entry(Term(3), Index(index), EntryKind.CONFIG, data)


async def founded_applier() -> tuple[MemoryBackend, Applier]:
    backend = MemoryBackend()
    settle(backend, await begin(*founder("a")))
    return backend, Applier(backend, fast.HeaderStamp(1, 2))


async def test_a_removed_member_does_not_start() -> None:
    _, applier = await founded_applier()
    config = load(["--data-dir=/d"], {}, lambda _path: b"")
    identity = Identity(member_id=IDS["b"], cluster_id=CLUSTER)
    check_recovered(applier.members, identity, config)
    entry = change(2, ChangeKind.REMOVE, IDS["b"])
    applier.apply_config(entry.index, entry.term, entry.data)
    with pytest.raises(BootstrapError) as caught:
        check_recovered(applier.members, identity, config)
    assert str(caught.value) == (
        "the member e13eab2db031ab4f has been permanently removed from the cluster "
        "2240eb61d1809825: the data directory /d must be removed"
    )


async def test_more_learners_than_the_flag_allows_are_noticed_at_the_start() -> None:
    _, applier = await founded_applier()
    entry = change(2, ChangeKind.ADD_LEARNER, 7, "http://new:1")
    applier.apply_config(entry.index, entry.term, entry.data)
    config = load([], {}, lambda _path: b"")
    identity = Identity(member_id=IDS["a"], cluster_id=CLUSTER)
    check_recovered(applier.members, identity, config)
    with pytest.raises(BootstrapError, match=r"^membership: too many learner members in cluster$"):
        check_recovered(applier.members, identity, replace(config, max_learners=0))


async def test_one_member_goes_on_alone_with_all_that_it_has() -> None:
    backend, applier = await founded_applier()
    put = encode_batch([(OpKind.PUT, fast.encode_put(b"k", b"v", 0))])
    entries = [
        change(2, ChangeKind.ADD_VOTER, 7, "http://new:1"),
        Entry(Term(3), Index(3), EntryKind.NORMAL, put),
        change(4, ChangeKind.REMOVE, IDS["c"]),
    ]
    gone = force_new_cluster(applier, backend, entries, IDS["a"])
    assert gone == (7, IDS["b"])
    for _ in range(2):
        again = Applier(backend, fast.HeaderStamp(1, 2))
        assert again.applied_index == 4
        assert again.store.get(b"k") is not None
        assert [m.ID for m in again.members.members()] == [IDS["a"]]
        assert again.members.membership == Membership(voters=(NodeId(IDS["a"]),))
        assert all(again.members.is_removed(number) for number in (7, IDS["b"], IDS["c"]))
        # Killed after it, the same start finds the same log and nothing more to do.
        assert force_new_cluster(again, backend, entries, IDS["a"]) == ()


async def test_a_learner_alone_gets_a_vote_and_a_removed_member_does_not_go_on() -> None:
    backend, applier = await founded_applier()
    learner = change(2, ChangeKind.ADD_LEARNER, 7, "http://new:1")
    removed = change(3, ChangeKind.REMOVE, IDS["b"])
    with pytest.raises(BootstrapError, match="was removed from its cluster"):
        force_new_cluster(applier, backend, [learner, removed], IDS["b"])
    assert force_new_cluster(applier, backend, [], 7) == (IDS["c"], IDS["a"])
    assert applier.members.membership == Membership(voters=(NodeId(7),))
