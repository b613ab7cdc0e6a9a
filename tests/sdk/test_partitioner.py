"""Partitions, on every store: dividing them, moving them, losing them, and what the application is told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import pytest

import coord
from coord.recipes.partitioner.assignment import assign
from tests.sdk.partitioner_model import exclusive, judged

WITHIN_S = 20.0
SET: ContextVar[str] = ContextVar("SET", default="by nobody")
SETTLE_S = 0.05


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not condition():
            await asyncio.sleep(0.01)


class Application:
    """Takes note of what it is told; ``events`` may be shared, so that the order between two can be seen."""

    def __init__(self, name: str = "", events: list[str] | None = None) -> None:
        self.name = name
        self.events: list[str] = [] if events is None else events
        self.tokens: dict[str, list[int]] = {}

    async def assign(self, own: coord.Ownership) -> None:
        self.events.append(f"{self.name}+{own.partition}")
        self.tokens.setdefault(own.partition, []).append(own.token)

    async def revoke(self, own: coord.Ownership) -> None:
        own.check()
        self.events.append(f"{self.name}-{own.partition}")


def told(context: list[dict[str, Any]]) -> Callable[[object, dict[str, Any]], None]:
    return lambda _, what: context.append(what)


async def test_one_member_has_everything(client: coord.Client, prefix: str) -> None:
    name, app = prefix + "p", Application()
    partitioner = client.partitioner(name, 4, settle=SETTLE_S)
    assert (partitioner.name, partitioner.id, partitioner.owned()) == (name.encode(), None, {})
    async with judged(client, name) as model, partitioner.run(app.assign, app.revoke) as same:
        assert same is partitioner
        await until(lambda: len(app.events) == 4)
        assert sorted(app.events) == ["+0", "+1", "+2", "+3"]
        owned = partitioner.owned()
        assert sorted(owned) == ["0", "1", "2", "3"]
        own = owned["2"]
        assert (own.partition, own.name) == ("2", f"{name}/owners/2")
        assert own.valid_for() > 0
        found = await partitioner.assignment(timeout=WITHIN_S)
        assert found.unowned == found.moving == ()
        (member,) = found.members
        assert (member.id, member.weight) == (partitioner.id, 1)
        owner = found.owners["2"]
        assert (owner.member, owner.token) == (partitioner.id, own.token)
        assert owner.lease_id == own.session.lease_id == member.lease_id
    assert sorted(app.events[4:]) == ["-0", "-1", "-2", "-3"]
    assert (partitioner.owned(), partitioner.id) == ({}, None)
    with pytest.raises(coord.NotHeld):
        own.check()
    assert len(model.grants) == 4


async def test_the_layout(client: coord.Client, prefix: str) -> None:
    partitioner = client.partitioner(prefix + "p", ["a/b"], weight=3, settle=0)
    async with partitioner.run():
        await until(partitioner.owned)
        member, owner = (await client.get_prefix(prefix)).items
        lease_id = (await client.default_session()).lease_id
        assert (member.key, member.lease) == (
            f"{prefix}p/members/{partitioner.id}".encode(),
            lease_id,
        )
        value = json.loads(member.value)
        assert len(value.pop("nonce")) == 16
        assert value == {"data": {"weight": 3}}
        assert (owner.key, owner.lease) == (f"{prefix}p/owners/a/b".encode(), lease_id)
        value = json.loads(owner.value)
        assert value["owner"] == partitioner.id
        assert set(value) == {"v", "nonce", "owner", "host", "pid", "since"}
        # The members are a group like any other.
        group = client.membership(prefix + "p/members")
        assert [each.id for each in await group.members(timeout=WITHIN_S)] == [partitioner.id]
    assert await client.count(prefix) == 0


async def test_who_joins_gets_its_share_and_who_leaves_gives_it_back(
    client: coord.Client, prefix: str
) -> None:
    name, events = prefix + "p", list[str]()
    one, two = Application("a", events), Application("b", events)
    a = client.partitioner(name, 12, settle=SETTLE_S, ttl=10)
    b = client.partitioner(name, 12, settle=SETTLE_S, ttl=10)
    async with judged(client, name), a.run(one.assign, one.revoke):
        await until(lambda: len(a.owned()) == 12)
        async with b.run(two.assign, two.revoke):
            assert a.id is not None
            assert b.id is not None
            wanted = assign([str(n) for n in range(12)], {a.id: 1, b.id: 1})
            await until(lambda: len(a.owned()) + len(b.owned()) == 12 and len(b.owned()) > 3)
            exclusive([a, b])
            assert set(b.owned()) == {p for p, member in wanted.items() if member == b.id}
            await until(lambda: len([e for e in events if e[:2] == "b+"]) == len(b.owned()))
            for partition in b.owned():
                assert events.index("a-" + partition) < events.index("b+" + partition)
            moved = set(b.owned())
        await until(lambda: len(a.owned()) == 12)
        await until(lambda: all(len(one.tokens[p]) == 2 for p in moved))
        for partition in moved:
            first, again = one.tokens[partition]
            assert first < two.tokens[partition][0] < again


async def test_a_fenced_write_of_an_owner_before_fails(client: coord.Client, prefix: str) -> None:
    partitioner = client.partitioner(prefix + "p", 1, settle=0)
    async with partitioner.run():
        await until(partitioner.owned)
        own = partitioner.owned()["0"]
        written = await own.txn().then(coord.op.put(prefix + "x", "1")).commit()
        assert written.succeeded
        guard = own.guard()
    again = await client.txn().when(guard).then(coord.op.put(prefix + "x", "2")).commit()
    assert not again.succeeded


async def test_a_lost_session_loses_everything_and_a_new_one_begins(
    client: coord.Client, prefix: str
) -> None:
    name, cancelled, revoked = prefix + "p", list[str](), list[int]()

    async def serve(own: coord.Ownership) -> None:
        try:
            await asyncio.sleep(600)
        finally:
            if own.lost.is_set():
                cancelled.append(own.partition)

    async def revoke(own: coord.Ownership) -> None:
        revoked.append(own.token)

    partitioner = client.partitioner(name, 3, settle=SETTLE_S, ttl=3)
    async with judged(client, name), partitioner.run(serve, revoke):
        await until(lambda: len(partitioner.owned()) == 3)
        ident, before = partitioner.id, partitioner.owned()
        await client.lease_revoke(before["0"].session.lease_id)
        await until(lambda: len(cancelled) == 3)
        assert all(own.lost.is_set() for own in before.values())
        await until(lambda: len(partitioner.owned()) == 3)
        after = partitioner.owned()
        assert partitioner.id == ident
        assert after["0"].session.lease_id != before["0"].session.lease_id
        assert all(after[p].token > before[p].token for p in after)
        assert revoked == []  # what is lost is not drained


async def test_a_key_that_others_delete_is_a_loss_and_is_claimed_again(
    client: coord.Client, prefix: str
) -> None:
    app = Application()
    partitioner = client.partitioner(prefix + "p", 1, settle=SETTLE_S)
    async with judged(client, prefix + "p"), partitioner.run(app.assign, app.revoke):
        await until(partitioner.owned)
        own = partitioner.owned()["0"]
        await client.delete(own.key)
        assert await own.lost.wait(timeout=WITHIN_S) == "revoked"
        with pytest.raises(coord.OwnershipLost) as caught:
            own.check()
        assert isinstance(caught.value, coord.LostError)
        await until(lambda: len(app.events) == 2)
        assert app.events == ["+0", "+0"]
        assert partitioner.owned()["0"].token > own.token
        # The owner may also let go of it by itself.
        assert await partitioner.owned()["0"].release() is True
        await until(lambda: len(app.events) == 3)


async def test_work_that_goes_on_is_cancelled_after_the_drain(
    client: coord.Client, prefix: str
) -> None:
    events = list[str]()

    async def serve(_: coord.Ownership) -> None:
        try:
            await asyncio.sleep(600)
        finally:
            events.append("ended")

    async def revoke(own: coord.Ownership) -> None:
        own.check()
        assert events == []
        events.append("drained")

    partitioner = client.partitioner(prefix + "p", 1, settle=0)
    async with partitioner.run(serve, revoke):
        await until(partitioner.owned)
        own = partitioner.owned()["0"]
        await partitioner.set_partitions(0)
        await until(lambda: not partitioner.owned())
        assert events == ["drained", "ended"]
        assert own.released
        assert not own.lost.is_set()


async def test_other_partitions_at_run_time(client: coord.Client, prefix: str) -> None:
    app = Application()
    partitioner = client.partitioner(prefix + "p", ["a", "b"], settle=SETTLE_S)
    assert partitioner.partitions == {"a", "b"}
    async with judged(client, prefix + "p"), partitioner.run(app.assign, app.revoke):
        await until(lambda: len(partitioner.owned()) == 2)
        await partitioner.set_partitions(["b", "c"])
        await until(lambda: sorted(partitioner.owned()) == ["b", "c"])
        assert "-a" in app.events
        assert "-b" not in app.events
        assert partitioner.partitions == {"b", "c"}
        other = client.partitioner(prefix + "p", ["a", "b"])
        async with asyncio.timeout(WITHIN_S):
            while (found := await other.assignment()).unowned != ("a",):
                await asyncio.sleep(0.01)  # the key goes a moment after the ownership
        assert found.moving == ("a", "c")


async def test_what_is_owned_can_be_followed(client: coord.Client, prefix: str) -> None:
    partitioner = client.partitioner(prefix + "p", 3, settle=SETTLE_S)
    changes = partitioner.watch()
    async with asyncio.timeout(WITHIN_S):
        assert await anext(changes) == {}
        async with partitioner.run():
            while len(owned := await anext(changes)) < 3:
                pass
            assert sorted(owned) == ["0", "1", "2"]
            await partitioner.set_partitions(1)
            while len(owned := await anext(changes)) > 1:
                pass
            assert list(owned) == ["0"]
        assert await anext(changes) == {}


async def test_an_application_that_fails_is_told_of_and_tried_again(
    client: coord.Client, prefix: str
) -> None:
    failures = [LookupError("first")]
    contexts = list[dict[str, Any]]()
    served = asyncio.Event()
    asyncio.get_running_loop().set_exception_handler(told(contexts))

    async def serve(own: coord.Ownership) -> None:
        if failures:
            raise failures.pop()
        served.set()

    async def revoke(_: coord.Ownership) -> None:
        raise LookupError("second")

    partitioner = client.partitioner(prefix + "p", 1, settle=0)
    async with judged(client, prefix + "p"):
        async with partitioner.run(serve, revoke), asyncio.timeout(WITHIN_S):
            await served.wait()
        assert [str(each["exception"]) for each in contexts] == ["first", "second"]
        assert "partition '0'" in contexts[0]["message"]


async def test_the_functions_see_what_the_caller_of_run_had_set(
    client: coord.Client, prefix: str
) -> None:
    seen = list[tuple[str, object]]()
    loop = asyncio.get_running_loop()

    async def note(_: coord.Ownership) -> None:
        seen.append((SET.get(), asyncio.get_running_loop()))

    token = SET.set("by the caller")
    async with client.partitioner(prefix + "p", 1, settle=0).run(note, note):
        SET.reset(token)
        await until(lambda: seen)
    assert seen == [("by the caller", loop)] * 2


async def test_weights(client: coord.Client, prefix: str) -> None:
    small = client.partitioner(prefix + "p", 40, settle=SETTLE_S)
    large = client.partitioner(prefix + "p", 40, settle=SETTLE_S, weight=4)
    async with small.run(), large.run():
        async with asyncio.timeout(WITHIN_S):
            while True:
                found = await small.assignment()
                if len(found.members) == 2 and not found.moving:
                    break
                await asyncio.sleep(0.01)
        assert {each.weight for each in found.members} == {1, 4}
        had = [owner.member for owner in found.owners.values()]
        assert len(had) == 40
        assert had.count(small.id or "") <= 10  # 1.25 times a fifth


async def test_what_is_refused(client: coord.Client, prefix: str) -> None:
    for wrong in (-1, "ab", b"ab", [""], ["a\0"], [1]):
        with pytest.raises(coord.InvalidArgument):
            client.partitioner(prefix + "p", wrong)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    for options in (
        {"weight": 0},
        {"settle": -1},
        {"drain_timeout": -1},
        {"max_moves": 0},
        {"ttl": 0},
    ):
        with pytest.raises(coord.InvalidArgument):
            client.partitioner(prefix + "p", 1, **options)
    partitioner = client.partitioner(prefix + "p", 1)
    with pytest.raises(coord.InvalidArgument):
        partitioner.run(timeout=-1)
    async with partitioner.run():
        with pytest.raises(coord.InvalidArgument, match="runs already"):
            await partitioner.run()
    await partitioner.stop()
    async with partitioner.run():  # again, one after the other
        assert partitioner.id is not None
