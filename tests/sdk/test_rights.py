"""Users who may not write below ``_coord/``, where the create fences are (recipes C17)."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncIterator, Iterator

import pytest

import coord
from coord import Access
from tests.sdk.auth_stores import PASSWORD, etcd_with_users, root
from tests.support.faulty import Fault, make_faulty
from tests.support.servers import ServerProcess

USER = "narrow"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with etcd_with_users(tmp_path_factory.mktemp("etcd-rights")) as server:
        yield server


@pytest.fixture
async def narrow(store: ServerProcess) -> AsyncIterator[coord.Client]:
    """A user with rights on ``app/`` alone."""
    async with root(store.endpoint) as admin:
        auth = admin.auth
        if USER not in await auth.user_list():
            await auth.role_add(USER)
            await auth.role_grant_permission(USER, "app/", Access.READWRITE, prefix=True)
            await auth.user_add(USER, PASSWORD)
            await auth.user_grant_role(USER, USER)
    async with coord.connect(
        store.endpoint, user=USER, password=PASSWORD, runtime="inline"
    ) as client:
        yield client


async def test_a_user_without_rights_on_the_fence_locks_all_the_same(
    narrow: coord.Client,
) -> None:
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        with pytest.raises(coord.PermissionDenied):
            await narrow.mutex("elsewhere/m").acquire(timeout=10)
        # What is denied for its name says nothing about the fence.
        assert narrow._home.may_fence
        assert heard == []
        async with narrow.mutex("app/m").hold(timeout=10) as first:
            assert await narrow.mutex("app/other").try_acquire() is not None
        async with narrow.mutex("app/m").hold(timeout=10) as second:
            assert second.token > first.token
        async with narrow.election("app/e").lead("me", timeout=10) as term:
            assert (await narrow.election("app/e").leader()).token == term.token
        with pytest.raises(coord.PermissionDenied):
            await narrow.mutex("elsewhere/m").acquire(timeout=10)
    assert len(heard) == 1
    assert heard[0].category is coord.RightsWarning
    assert "readwrite on the prefix '_coord/'" in str(heard[0].message)


async def test_every_recipe_works_without_rights_on_the_fence(narrow: coord.Client) -> None:
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        async with asyncio.timeout(20):
            async with narrow.rwlock("app/rw").write().hold() as writer:
                assert writer.token
            async with (
                narrow.rwlock("app/rw").read().hold(),
                narrow.semaphore("app/s", initial_limit=1).hold(),
                narrow.multi_lock(["app/a", "app/b"]).hold(),
                narrow.mutex("app/one", layout="single-key").hold(),
            ):
                assert await narrow.semaphore("app/s").try_acquire() is None
            gate = narrow.barrier("app/gate")
            await gate.hold()
            await gate.release()
            await gate.wait()
            async with narrow.double_barrier("app/both", 1).joined():
                pass
            latch = narrow.latch("app/latch", 1)
            await latch.count_down()
            await latch.wait()
            async with narrow.registry("app/service").register("h:1"):
                assert (await narrow.get("app/service/h:1")) is not None
            async with narrow.membership("app/group").join("me"):
                assert [m.id for m in await narrow.membership("app/group").members()] == ["me"]
            assert await narrow.counter("app/n").add() == 1
            await narrow.sharded_counter("app/many", shards=2).add()
            assert await narrow.id_allocator("app/ids").next() > 0
            await narrow.topic("app/news").publish("x")
            await narrow.rate_limiter("app/rate", 10).acquire()
            await narrow.delay_queue("app/later").put("x")
            config = await narrow.config("app/config", str, default="old")
            await config.publish("new")
            await config.close()
    assert {w.category for w in heard} <= {coord.RightsWarning}


async def test_a_priority_queue_needs_rights_on_its_numbers(narrow: coord.Client) -> None:
    """They are where Go's has them, beside the name and not below it."""
    with pytest.raises(coord.PermissionDenied):
        await narrow.priority_queue("app/urgent").put("x")


async def test_a_lock_delay_needs_rights_on_its_marks_and_says_so(narrow: coord.Client) -> None:
    """Whoever cannot write them would seem to have crashed, each time."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(coord.PermissionDenied):
            async with narrow.mutex("app/slow", lock_delay=0.1).hold(timeout=10):
                pass


@pytest.mark.parametrize("kind", ["mutex", "election"])
async def test_a_late_copy_is_taken_back(kind: str) -> None:
    async with coord.connect("memory:", runtime="inline") as client:
        client._home.may_fence = False
        faulty = make_faulty(client, [Fault.LATE])
        async with client.session(ttl=2) as one, client.session(ttl=30) as two:

            async def attempt(session: coord.Session) -> coord.Grant:
                if kind == "mutex":
                    return await client.mutex("a", session=session).acquire()
                return await client.election("a", session=session).campaign("x")

            task = asyncio.ensure_future(attempt(one))
            await asyncio.sleep(0.01)  # it has noticed the loss, and pauses before it tries again
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await client.count("a/") == 0
            async with client.watch("a/", prefix=True) as changes:
                assert await faulty.deliver_late() == 1
                landed, gone = await anext(changes), await anext(changes)
            assert (landed.type, gone.type) == (coord.EventType.PUT, coord.EventType.DELETE)
            assert landed.key == gone.key
            # Its session lives: it was taken back, and did not go with the lease.
            assert one.valid_for() > 0
            held = await asyncio.wait_for(attempt(two), 10)
            await held.release()


async def test_the_next_attempt_is_not_mistaken_for_a_late_copy() -> None:
    async with coord.connect("memory:", runtime="inline") as client:
        client._home.may_fence = False
        make_faulty(client, [Fault.LOSE_REQUEST])
        async with client.session(ttl=1) as session:
            mutex = client.mutex("a", session=session)
            task = asyncio.ensure_future(mutex.acquire())
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            async with mutex.hold(timeout=10) as grant:
                await asyncio.wait([asyncio.ensure_future(grant.lost.wait())], timeout=1.5)
                grant.check()


async def test_a_user_without_rights_on_the_markers_uses_queues_all_the_same(
    narrow: coord.Client,
) -> None:
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        async with narrow.queue("app/q") as queue, narrow.work_queue("app/w") as work:
            for n in range(3):
                await queue.put(f"{n}")
                await work.put(f"{n}")
            got = [(await queue.get(timeout=10)).value for _ in range(3)]
            assert got == [b"0", b"1", b"2"]
            with pytest.raises(coord.QueueEmpty):
                await queue.get(timeout=0.1)
            for n in range(3):
                (item,) = await work.receive(timeout=10)
                async with item:
                    assert item.value == str(n).encode()
            # A lost answer is not cleared up then, and said to be lost.
            await queue.put("x")
            faulty = make_faulty(narrow)
            faulty.plan.append(Fault.LOSE_REPLY)
            with pytest.raises(coord.AmbiguousResult):
                await queue.get(timeout=10)
            assert await queue.size() == 0
