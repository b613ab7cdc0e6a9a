"""Groups, on every store: joining, leaving, coming back, and what those who look on are told.

``COORD_MEMBERS`` (default 40) is the number of members in the test of churn.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable

import pytest

import coord
from coord import GroupEventKind

MEMBERS = int(os.environ.get("COORD_MEMBERS", "40"))
WITHIN_S = 20.0


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not condition():
            await asyncio.sleep(0.01)


async def ids(group: coord.Membership) -> list[str]:
    return [member.id for member in await group.members(timeout=WITHIN_S)]


class Model:
    """The group as the events tell it; each event must fit what was there before."""

    def __init__(self) -> None:
        self.members: dict[str, coord.GroupMember] = {}
        self.highest = 0

    def apply(self, event: coord.GroupEvent) -> None:
        member, known = event.member, self.members.get(event.member.id)
        match event.kind:
            case GroupEventKind.JOINED | GroupEventKind.REJOINED:
                assert known is None or event.resync
                assert member.token > (0 if known is None else known.token)
                self.members[member.id] = member
            case GroupEventKind.UPDATED:
                assert known is not None
                assert (known.token, known.nonce) == (member.token, member.nonce)
                assert member.revision > known.revision
                self.members[member.id] = member
            case GroupEventKind.LEFT:
                assert known is not None
                assert known.token == member.token
                del self.members[member.id]


async def told(events: AsyncIterator[coord.GroupEvent]) -> tuple[str, str]:
    async with asyncio.timeout(WITHIN_S):
        event = await anext(events)
    return event.kind.value, event.member.id


async def test_members_are_those_who_joined(client: coord.Client, prefix: str) -> None:
    group = client.membership(prefix + "g")
    assert await group.members(timeout=WITHIN_S) == ()
    async with group.join("a", data={"port": 1}) as a, group.join("b", data=b"\x00\xff") as b:
        first, second = await group.members()
        assert (first.id, first.data, first.token) == ("a", {"port": 1}, a.token)
        assert (second.id, second.data, second.token) == ("b", b"\x00\xff", b.token)
        a.check()
    await until(lambda: group._members() == ())
    with pytest.raises(coord.NotMember):
        a.check()
    with pytest.raises(coord.NotMember):
        await a.update(1)
    assert await a.leave() is True


async def test_the_layout(client: coord.Client, prefix: str) -> None:
    async with client.membership(prefix + "g").join("a", data=[1]) as seat:
        (kv,) = (await client.get_prefix(prefix)).items
        assert kv.key == f"{prefix}g/a".encode() == seat.key
        value = json.loads(kv.value)
        assert len(value.pop("nonce")) == 16
        assert value == {"data": [1]}
        assert kv.lease == (await client.default_session()).lease_id
        await seat.update(b"x")
        assert json.loads((await client.get_prefix(prefix)).items[0].value)["base64"] == "eA=="


async def test_ids_are_unique_and_made_up_when_none_is_given(
    client: coord.Client, prefix: str
) -> None:
    group, other = client.membership(prefix + "g", ttl=10), client.membership(prefix + "g")
    async with group.join() as one, group.join() as two, group.join("a"):
        assert one.id != two.id
        for each in (group, other):
            with pytest.raises(coord.AlreadyMember, match="'a'"):
                await each.join("a", timeout=5)
    for wrong in ("", "a/b", "a\0"):
        with pytest.raises(coord.InvalidArgument):
            group.join(wrong)
    with pytest.raises(coord.InvalidArgument):
        group.join("a", data={1, 2})
    with pytest.raises(coord.PayloadTooLarge):
        group.join("a", data="x" * 600_000)


async def test_watch_tells_what_happens(client: coord.Client, prefix: str) -> None:
    group = client.membership(prefix + "g")
    early = await group.join("early")
    events = group.watch()
    assert await told(events) == ("joined", "early")
    late = await group.join("late", data=1)
    assert await told(events) == ("joined", "late")
    await late.update(2)
    assert await told(events) == ("updated", "late")
    await client.delete(late.key)
    assert await told(events) == ("left", "late")
    assert await told(events) == ("rejoined", "late")
    await late.leave()
    assert await told(events) == ("left", "late")
    again = await group.join("late")
    assert await told(events) == ("joined", "late")
    assert again.token > late.token
    await again.leave()
    await early.leave()


async def test_a_member_whose_session_is_lost_comes_back_as_a_new_incarnation(
    client: coord.Client, prefix: str
) -> None:
    group = client.membership(prefix + "g", ttl=3)
    async with group.join("a", data="mine") as seat:
        events = group.watch()
        assert await told(events) == ("joined", "a")
        first = seat.token
        (member,) = await group.members()
        await client.lease_revoke(member.lease_id)
        assert await told(events) == ("left", "a")
        assert await told(events) == ("rejoined", "a")
        await until(lambda: seat.is_present)
        assert seat.token > first
        assert [(each.data, each.token) for each in await group.members()] == [("mine", seat.token)]


async def test_a_member_that_must_not_come_back_is_lost(client: coord.Client, prefix: str) -> None:
    group = client.membership(prefix + "g", ttl=3)
    reason: str | None = None
    with pytest.raises(coord.MemberLost) as caught:
        async with group.join("a", rejoin=False) as seat:
            (member,) = await group.members()
            await client.lease_revoke(member.lease_id)
            reason = await seat.lost.wait(timeout=WITHIN_S)
            with pytest.raises(coord.MemberLost):
                seat.check()
            with pytest.raises(coord.MemberLost):
                await seat.update(1)
    assert caught.value.reason == reason
    assert isinstance(caught.value, coord.LostError)
    # An error of the block wins.
    with pytest.raises(LookupError):
        async with group.join("a", rejoin=False) as seat:
            await client.delete(seat.key)
            assert await seat.lost.wait(timeout=WITHIN_S) == "revoked"
            raise LookupError


async def test_takeover_ends_the_member_before(client: coord.Client, prefix: str) -> None:
    group = client.membership(prefix + "g", ttl=10)
    first = await group.join("a", data=1)
    async with group.join("a", data=2, takeover=True, timeout=10) as second:
        assert await first.lost.wait(timeout=WITHIN_S) == "taken over by another"
        assert [each.data for each in await group.members()] == [2]
        assert second.token > first.token
        assert await first.leave() is False
        assert await ids(group) == ["a"]


async def test_waiting_for_members(client: coord.Client, prefix: str) -> None:
    group = client.membership(prefix + "g")
    async with group.join("a"):
        with pytest.raises(coord.MembershipTimeout, match="there are 1") as caught:
            await group.wait_for(2, timeout=0.1)
        assert isinstance(caught.value, TimeoutError)
        waiting = asyncio.ensure_future(group.wait_for(2))
        await asyncio.sleep(0.01)
        async with group.join("b"):
            assert [each.id for each in await asyncio.wait_for(waiting, WITHIN_S)] == ["a", "b"]
        assert len(await group.wait_for(0)) <= 2
    with pytest.raises(coord.InvalidArgument):
        await group.wait_for(-1)


async def test_churn_is_told_as_it_happened(client: coord.Client, prefix: str) -> None:
    group = client.membership(prefix + "g")
    model = Model()
    events = group.watch()

    async def live(number: int) -> None:
        ident = f"m{number % (MEMBERS // 2)}"  # ids are had twice, one after the other
        for data in range(2):
            try:
                async with group.join(ident, data=number) as seat:
                    await seat.update({"round": data})
                    if number % 5 == 0:
                        await client.delete(seat.key)
                        await until(lambda seat=seat: seat.is_present)  # type: ignore[misc] # bound
            except coord.AlreadyMember:
                await asyncio.sleep(0.01)

    async with group.join("last") as last, asyncio.TaskGroup() as work:
        for number in range(MEMBERS):
            work.create_task(live(number))
    await last.leave()
    # The last change of all is the end.
    async with asyncio.timeout(WITHIN_S), group.join("end") as end:
        async for event in events:
            model.apply(event)
            if event.member.id == "end":
                break
        assert set(model.members) == {"end"} == set(await ids(group))
        assert model.members["end"].token == end.token


async def test_a_look_shows_what_was_joined_before_it(client: coord.Client, prefix: str) -> None:
    group = client.membership(prefix + "g")
    assert await ids(group) == []
    for number in range(10):
        async with group.join(f"m{number}"):
            assert f"m{number}" in await ids(group)
