"""Adding, removing, updating and promoting members, and moving the leadership: who may, and when."""

from __future__ import annotations

import asyncio

import pytest

from coord.rpc.status import RpcError, StatusCode
from coord.wire import rpc_pb2 as pb
from coord_server import errors
from coord_server.api.cluster import Cluster
from coord_server.errors import ErrorSpec, Refused
from coord_server.member_ids import added_member_id
from tests.server.members.site import NOW_S, Site


def founders(*, voters: int, started: int | None = None, learner: bool = False) -> list[pb.Member]:
    named = voters if started is None else started
    members = [
        pb.Member(
            ID=number,
            name=f"n{number}" if number <= named else "",
            peerURLs=[f"http://m{number}:1"],
        )
        for number in range(1, voters + 1)
    ]
    if learner:
        members.append(pb.Member(ID=9, peerURLs=["http://m9:1"], isLearner=True))
    return members


def site(voters: int, *, started: int | None = None, down: int = 0, learner: bool = False) -> Site:
    made = Site(*founders(voters=voters, started=started, learner=learner))
    for number in range(2, voters + 1 - down):
        made.replica.since[number] = NOW_S - 6
    return made


async def refusal(waiting: object) -> ErrorSpec:
    with pytest.raises(Refused) as caught:
        await waiting  # type: ignore[misc]
    return caught.value.spec


async def test_a_new_member_is_in_the_answer_without_a_name() -> None:
    one = site(1)
    answer = await one.add("http://b:1", " http://a:1")
    number = added_member_id(["http://a:1", "http://b:1"], 1_700_000_001)
    assert answer.member == pb.Member(ID=number, peerURLs=["http://a:1", "http://b:1"])
    assert [m.ID for m in answer.members] == sorted([1, number])
    header = answer.header
    assert (header.cluster_id, header.member_id, header.revision, header.raft_term) == (77, 1, 0, 5)


@pytest.mark.parametrize(
    "urls",
    [
        [],
        ["127.0.0.1:2380"],
        ["ftp://h:1"],
        ["http://h"],
        ["http://h:1/path"],
        ["http://ok:1", "http://h:x"],
        [""],
    ],
)
async def test_peer_urls_have_a_shape(urls: list[str]) -> None:
    assert await refusal(site(1).add(*urls)) is errors.MEMBER_BAD_URLS


async def test_sockets_are_peers_too() -> None:
    assert (await site(1).add("unix:///run/peer.sock")).member.ID


# What the strict check says: voters, of these started, of these down, action -> refusal
ADDS = [
    (1, 1, 0, False, None),
    (1, 0, 0, False, errors.MEMBER_NOT_ENOUGH_STARTED),
    (1, 0, 0, True, None),
    (2, 1, 1, False, errors.MEMBER_NOT_ENOUGH_STARTED),
    (2, 2, 0, False, None),
    (2, 2, 1, False, errors.UNHEALTHY),
    (3, 2, 0, False, errors.MEMBER_NOT_ENOUGH_STARTED),
    (3, 3, 0, False, None),
    (3, 3, 1, False, errors.UNHEALTHY),
    (3, 3, 1, True, errors.UNHEALTHY),
    (4, 4, 1, True, None),
    (4, 4, 1, False, None),
    (4, 4, 2, False, errors.UNHEALTHY),
    (5, 5, 1, True, None),
    (5, 5, 2, True, errors.UNHEALTHY),
]


@pytest.mark.parametrize(("voters", "started", "down", "learner", "expected"), ADDS)
async def test_when_members_may_be_added(
    voters: int, started: int, down: int, learner: bool, expected: ErrorSpec | None
) -> None:
    made = site(voters, started=started, down=down)
    if expected is None:
        assert len((await made.add("http://new:1", learner=learner)).members) == voters + 1
    else:
        assert await refusal(made.add("http://new:1", learner=learner)) is expected
        made.context.config = Site(strict_reconfig_check=False).config
        assert (await made.add("http://new:1", learner=learner)).member.ID


async def test_touch_counts_after_five_seconds() -> None:
    made = site(3)
    made.replica.since[3] = NOW_S - 4.9
    assert await refusal(made.add("http://new:1")) is errors.UNHEALTHY
    made.replica.since[3] = NOW_S - 5
    assert (await made.add("http://new:1")).member.ID


# voters, started, down, id -> refusal; the highest ids are down
REMOVALS = [
    (1, 1, 0, 1, errors.MEMBER_NOT_ENOUGH_STARTED),
    (1, 1, 0, 7, errors.MEMBER_NOT_FOUND),
    (2, 1, 1, 2, None),
    (2, 2, 1, 1, errors.UNHEALTHY),
    (3, 3, 0, 1, None),
    (3, 3, 0, 2, None),
    (3, 1, 0, 2, errors.MEMBER_NOT_ENOUGH_STARTED),
    (3, 3, 1, 3, None),
    (3, 3, 1, 2, errors.UNHEALTHY),
    (5, 5, 2, 5, None),
    (5, 5, 2, 2, errors.UNHEALTHY),
    (5, 5, 2, 1, errors.UNHEALTHY),
    (5, 5, 1, 2, None),
]


@pytest.mark.parametrize(("voters", "started", "down", "number", "expected"), REMOVALS)
async def test_when_a_member_may_be_removed(
    voters: int, started: int, down: int, number: int, expected: ErrorSpec | None
) -> None:
    made = site(voters, started=started, down=down)
    if expected is None:
        answer = await made.remove(number)
        assert number not in [m.ID for m in answer.members]
        assert len(answer.members) == voters - 1
        assert await refusal(made.remove(number)) is errors.MEMBER_NOT_FOUND
    else:
        assert await refusal(made.remove(number)) is expected


async def test_a_learner_goes_unasked() -> None:
    made = site(3, started=1, down=2, learner=True)
    assert [m.ID for m in (await made.remove(9)).members] == [1, 2, 3]


async def test_an_update_needs_no_health_and_no_shape() -> None:
    made = site(3, down=2, learner=True)
    assert next(iter((await made.update(2, "anything")).members[1].peerURLs)) == "anything"
    assert (await made.update(9, "http://new:1")).members[3].isLearner
    assert await refusal(made.update(2, "http://m1:1")) is errors.PEER_URL_EXIST
    assert await refusal(made.update(8, "http://x:1")) is errors.MEMBER_NOT_FOUND


async def test_learners_are_limited_by_the_flag() -> None:
    made = Site(*founders(voters=1), max_learners=2)
    await made.add("http://a:1", learner=True)
    await made.add("http://b:1", learner=True)
    assert await refusal(made.add("http://c:1", learner=True)) is errors.TOO_MANY_LEARNERS
    assert await refusal(made.add("http://a:1")) is errors.PEER_URL_EXIST


# Promotion.


async def test_a_learner_is_promoted_once_it_has_nine_tenths_of_the_log() -> None:
    made = site(3, learner=True)
    made.replica.matches[9] = 89
    assert await refusal(made.promote(9)) is errors.LEARNER_NOT_READY
    made.replica.matches[9] = 90
    answer = await made.promote(9)
    assert [m.isLearner for m in answer.members] == [False] * 4
    assert await refusal(made.promote(9)) is errors.MEMBER_NOT_LEARNER
    assert await refusal(made.promote(1)) is errors.MEMBER_NOT_LEARNER
    assert await refusal(made.promote(8)) is errors.MEMBER_NOT_FOUND


async def test_a_promotion_that_could_cost_the_quorum_is_refused() -> None:
    made = site(3, started=1, learner=True)
    made.replica.matches[9] = 100
    assert await refusal(made.promote(9)) is errors.MEMBER_NOT_ENOUGH_STARTED
    made.context.config = Site(strict_reconfig_check=False).config
    assert not (await made.promote(9)).members[3].isLearner


def pair(**config: int) -> tuple[Site, Site]:
    """A follower, and its leader."""
    follower = Site(*founders(voters=3, learner=True), own=2, leader=1, **config)
    leader = site(3, learner=True)
    follower.replica.leader = leader
    leader.replica.matches[9] = 100
    return follower, leader


async def test_a_follower_lets_the_leader_promote() -> None:
    follower, leader = pair()
    answer = await follower.promote(9)
    assert follower.replica.asked == ["promote"]
    assert leader.applier.members.membership.voters == (1, 2, 3, 9)
    assert [m.isLearner for m in answer.members] == [False] * 4
    assert answer.header.member_id == 2


async def test_a_follower_asks_again_while_leaders_change() -> None:
    follower, _ = pair()
    follower.replica.troubles = [
        RpcError(StatusCode.UNAVAILABLE, "connection reset"),
        Refused(errors.NOT_LEADER),
    ]
    assert not (await follower.promote(9)).members[3].isLearner
    assert len(follower.replica.asked) == 3


async def test_the_leaders_refusal_is_the_answer() -> None:
    follower, leader = pair()
    leader.replica.matches[9] = 0
    assert await refusal(follower.promote(9)) is errors.LEARNER_NOT_READY
    follower.replica.troubles = [Refused(errors.UNHEALTHY)]
    assert await refusal(follower.promote(9)) is errors.UNHEALTHY
    assert len(follower.replica.asked) == 2


async def test_without_a_leader_a_promotion_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    follower, _ = pair()
    follower.replica.leader_id = 0
    monkeypatch.setattr(type(follower.config), "request_timeout_s", 0.2)
    assert await refusal(follower.promote(9)) is errors.TIMEOUT
    assert follower.replica.asked == []


# Leadership.


async def test_only_the_leader_moves_the_leadership() -> None:
    follower, _ = pair()
    assert await refusal(follower.move_leader(3)) is errors.NOT_LEADER


@pytest.mark.parametrize("target", [8, 9])
async def test_strangers_and_learners_cannot_lead(target: int) -> None:
    made = site(3, learner=True)
    assert await refusal(made.move_leader(target)) is errors.BAD_LEADER_TRANSFEREE


async def test_the_answer_comes_when_the_target_leads() -> None:
    made = site(3)
    assert await made.move_leader(1) == pb.MoveLeaderResponse()
    made.replica.obeys = False
    async with asyncio.TaskGroup() as group:
        moving = group.create_task(made.move_leader(3))
        await asyncio.sleep(0)
        assert not moving.done()
        made.replica.leader_id = 3
    assert moving.result() == pb.MoveLeaderResponse()


async def test_a_move_that_does_not_happen_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    made = site(3)
    made.replica.obeys = False
    monkeypatch.setattr(type(made.config), "request_timeout_s", 0.05)
    assert await refusal(made.move_leader(3)) is errors.LEADER_TRANSFER_TIMEOUT


def test_a_server_that_cannot_change_its_members_lists_them_only() -> None:
    made = site(1)
    assert len(Cluster(made.context).methods()) == 1
    assert len(made.cluster.methods()) == 5
