"""Rate limiters: which mode is in force, fleets that divide a rate, and what becomes of permits that nobody uses."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from dataclasses import replace
from typing import Any

import pytest
from typing_extensions import override

import coord
from coord.client.connecting import open_client
from coord.core import Options
from coord.embed.memory import open_memory
from coord.recipes.rate_limiter.meter import RateMode, chosen
from coord.target import Opened, Target, TargetKind
from coord.testing import Faults
from coord.testing.virtual import VirtualClock, VirtualLoop, run_virtual, virtual_env
from tests.sdk.rate_model import most_beyond
from tests.support.faulty import TXN, Fault, make_faulty, put_under
from tests.support.virtual import virtual_client

WITHIN_S = 30.0


class Skewed(VirtualClock):
    """A clock that shows another time."""

    def __init__(self, loop: asyncio.AbstractEventLoop, ahead: float) -> None:
        super().__init__(loop)
        self.ahead = ahead

    @override
    def wall(self) -> float:
        return super().wall() + self.ahead


class Store:
    """One store in virtual time, and any number of clients of it."""

    def __init__(self, loop: VirtualLoop, opened: Opened) -> None:
        self.loop = loop
        self._opened = opened

    @contextlib.asynccontextmanager
    async def client(self, ahead: float = 0.0) -> AsyncGenerator[coord.Client]:
        target = Target(kind=TargetKind.ENDPOINTS, endpoints=self._opened.endpoints)
        world = replace(
            virtual_env(self.loop), net=self._opened.net, clock=Skewed(self.loop, ahead)
        )
        async with await open_client(Options(target=target, placement="inline"), world) as client:
            yield client


def cut_off(client: coord.Client) -> Callable[[], None]:
    """Lose every request of this client from now on; return what heals it."""
    faults = Faults()
    faults.drop_request(times=None, silent=True)
    return put_under(client, faults)


def on_a_store(work: Callable[[Store], Coroutine[Any, Any, None]]) -> None:
    """Run ``work`` in virtual time."""

    async def main(loop: VirtualLoop) -> None:
        opened = await open_memory(virtual_env(loop))
        await work(Store(loop, opened))
        await opened.close()

    run_virtual(main)


async def value_of(client: coord.Client, name: str) -> dict[str, Any]:
    found = await client.get(name)
    assert found is not None
    value: dict[str, Any] = json.loads(found.value)
    return value


# -- the mode ------------------------------------------------------------------------------------------------------


async def test_a_divided_limiter(client: coord.Client, prefix: str) -> None:
    name = prefix + "r"
    async with client.rate_limiter(name, 100, burst=10, ttl=1) as limiter:
        assert not await limiter.try_acquire(timeout=WITHIN_S)  # it has just joined
        await limiter.acquire(2, timeout=WITHIN_S)
        # The layout.
        found = await client.get_prefix(name)
        keys = [kv.key for kv in found.items]
        assert keys[0] == name.encode()
        assert len(keys) == 2
        assert keys[1].startswith(f"{name}/members/".encode())
        value = await value_of(client, name)
        assert value == {
            "rate": 100,
            "burst": 10,
            "tat_us": 0,
            "now_us": 0,
            "mode": "divided",
            "ttl": 1,
        }
        assert found.items[1].lease
        assert json.loads(found.items[1].value)["data"] == {"weight": 1.0}
        state = await limiter.state(timeout=WITHIN_S)
        assert (state.mode, state.rate, state.burst, state.share) == ("divided", 100, 10, 100)
        assert [(member.weight, member.share) for member in state.members] == [(1, 100)]
    assert await client.count(f"{name}/members/") == 0
    with pytest.raises(coord.ClientClosed):
        await limiter.acquire()


def test_the_rule_of_auto() -> None:
    assert [chosen(rate, batch) for rate, batch in ((50, 1), (51, 1), (500, 10), (501, 10))] == [
        *("strict", "divided"),
        *("strict", "divided"),
    ]


async def test_a_fleet_agrees_on_the_mode(client: coord.Client, prefix: str) -> None:
    strict = client.rate_limiter(prefix + "s", 100, mode="strict")
    await strict.acquire(timeout=WITHIN_S)
    assert (await value_of(client, prefix + "s"))["mode"] == "strict"
    # Who takes any follows the store, whatever the figures say.
    await client.rate_limiter(prefix + "s", 100).acquire(timeout=WITHIN_S)
    with pytest.raises(coord.LimiterMismatch, match="is strict, not divided") as caught:
        await client.rate_limiter(prefix + "s", 100, mode="divided").acquire(timeout=WITHIN_S)
    assert (caught.value.stored_mode, caught.value.given_mode) == ("strict", "divided")
    async with client.rate_limiter(prefix + "d", 10, mode="divided", ttl=1) as divided:
        await divided.acquire(timeout=WITHIN_S)
        with pytest.raises(coord.LimiterMismatch, match="is divided, not strict"):
            await client.rate_limiter(prefix + "d", 10, mode="strict").acquire(timeout=WITHIN_S)
        with pytest.raises(coord.LimiterMismatch, match="allows 10 per second"):
            await client.rate_limiter(prefix + "d", 11).try_acquire(timeout=WITHIN_S)
        with pytest.raises(coord.LimiterMismatch, match="allows 10 per second"):
            await client.rate_limiter(prefix + "d", 11, mode="divided").try_acquire(
                timeout=WITHIN_S
            )


async def test_what_is_refused(client: coord.Client, prefix: str) -> None:
    bad: list[dict[str, Any]] = [
        {"mode": "lax"},
        {"weight": 0},
        {"weight": float("nan")},
        {"ttl": 0},
        {"fallback_rate": 0},
        {"fair": True, "mode": "divided"},
        {"batch_window": float("inf")},
    ]
    for options in bad:
        with pytest.raises(coord.InvalidArgument):
            client.rate_limiter(prefix + "r", 1, **options)
    limiter = client.rate_limiter(prefix + "r", 10, burst=5, mode="divided", ttl=1)
    with pytest.raises(coord.InvalidArgument, match="never come at once"):
        await limiter.acquire(6, timeout=WITHIN_S)
    await limiter.close()


async def test_its_parts_are_no_conflict_of_names() -> None:
    async with coord.connect("memory:", debug=True) as client:
        await client.rate_limiter("r", 10, fair=True).acquire()
        await client.rate_limiter("d", 100, mode="divided").try_acquire()
        with pytest.raises(coord.NameConflict):
            client.rate_limiter("r/x", 10)


# -- fleets, in virtual time ---------------------------------------------------------------------------------------


def judge(times: list[float], rate: float, burst: float) -> None:
    assert most_beyond(times, rate) <= burst + 1e-3


@pytest.mark.parametrize("seed", range(1))
def test_twenty_clients_that_come_and_go(seed: int) -> None:
    """Skewed by up to 200 ms, some closed, some cut off from the store for a while, all as greedy as can be."""
    chance = random.Random(seed)
    rate, burst, size = 200.0, 40.0, 20

    async def work(store: Store) -> None:
        times: list[float] = []
        ends = store.loop.time() + 30

        async def use() -> None:
            while store.loop.time() < ends:
                ahead = chance.uniform(-0.2, 0.2)
                async with store.client(ahead) as client:
                    limiter = client.rate_limiter("r", rate, burst=burst, ttl=4)
                    until = min(ends, store.loop.time() + chance.choice([6, 15, 30]))
                    cut = store.loop.time() + chance.uniform(5, 30)
                    while (now := store.loop.time()) < until:
                        if now > cut:
                            cut = ends
                            store.loop.call_later(chance.choice([1, 3, 12]), cut_off(client))
                        with contextlib.suppress(coord.RateLimitTimeout):
                            await limiter.acquire(timeout=until - now)
                            times.append(store.loop.time())
                    if chance.random() < 0.5:
                        await limiter.close()

        async with asyncio.TaskGroup() as group:
            for _ in range(size):
                group.create_task(use())
        judge(times, rate, burst + size)
        # Nor is most of it withheld, though many have died or are new.
        assert len(times) > rate * 30 / 4

    on_a_store(work)


def test_shares_follow_weights_and_members() -> None:
    async def work(store: Store) -> None:
        async with store.client() as one, store.client() as two:
            times: dict[str, list[float]] = {"a": [], "b": []}
            a = one.rate_limiter("r", 100, burst=1, ttl=4, weight=3)
            b = two.rate_limiter("r", 100, burst=1, ttl=4)

            async def use(limiter: coord.RateLimiter, name: str) -> None:
                while True:
                    await limiter.acquire()
                    times[name].append(store.loop.time())

            def pace(name: str, since: float, until: float) -> float:
                return sum(since <= time < until for time in times[name]) / (until - since)

            async with asyncio.TaskGroup() as group:
                start = store.loop.time()
                using = group.create_task(use(a, "a"))
                await asyncio.sleep(10)
                joined = store.loop.time()
                other = group.create_task(use(b, "b"))
                await asyncio.sleep(20)
                other.cancel()
                await b.close()
                left = store.loop.time()
                await asyncio.sleep(20)
                using.cancel()
        assert times["a"][0] - start == pytest.approx(4, abs=0.7)
        assert times["b"][0] - joined == pytest.approx(4, abs=0.7)
        assert pace("a", start + 5, joined) == pytest.approx(100, abs=2)
        # A smaller share counts with the next look, a joiner's first one after a ttl.
        assert pace("a", joined + 1, left) == pytest.approx(75, abs=2)
        assert pace("b", joined + 5, left) == pytest.approx(25, abs=2)
        assert pace("a", left, left + 4) == pytest.approx(75, abs=2)
        assert pace("a", left + 5, left + 20) == pytest.approx(100, abs=2)

    on_a_store(work)


def test_an_acquire_asks_nobody() -> None:
    async def work(store: Store) -> None:
        async with store.client() as client:
            limiter = client.rate_limiter("r", 1000, ttl=4)
            await limiter.acquire()
            seen = make_faulty(client)
            for _ in range(2000):
                await limiter.acquire()
            # Two seconds: a look each half a second, and the lease.
            assert len(seen.paths) < 10

    on_a_store(work)


def test_who_is_cut_off_stops_and_another_takes_over() -> None:
    async def work(store: Store) -> None:
        async with store.client() as one, store.client() as two:
            a = one.rate_limiter("r", 100, ttl=4)
            b = two.rate_limiter("r", 100, ttl=4)
            await a.acquire()
            keys = [kv.key for kv in (await two.get_prefix("r/members/")).items]
            await b.acquire()
            await asyncio.sleep(4)
            heal = cut_off(one)
            await asyncio.sleep(2)
            assert not await a.try_acquire()
            assert (await b.state()).share == 50
            # Its lease ends.
            (key,) = [kv for kv in (await two.get_prefix("r/members/")).items if kv.key in keys]
            await two.lease_revoke(key.lease)
            await asyncio.sleep(3.9)
            assert (await b.state()).share == 50
            await asyncio.sleep(0.7)
            assert (await b.state()).share == 100
            heal()
            waited = store.loop.time()
            await a.acquire()
            assert store.loop.time() - waited > 3
            assert (await b.state()).share == 50

    on_a_store(work)


def test_one_who_takes_the_place_of_another_is_seen() -> None:
    async def work(store: Store) -> None:
        async with store.client() as one, store.client() as two:
            a = one.rate_limiter("r", 100, ttl=4)
            b = two.rate_limiter("r", 100, ttl=4)
            await asyncio.gather(a.acquire(), b.acquire())
            await b.close()
            c = two.rate_limiter("r", 100, ttl=4, weight=3)
            assert not await c.try_acquire()
            await asyncio.sleep(1)
            assert (await a.state()).share == 25

    on_a_store(work)


def test_a_slow_answer_is_an_old_one() -> None:
    async def work(store: Store) -> None:
        async with store.client() as client:
            limiter = client.rate_limiter("r", 100, ttl=4)
            await limiter.acquire()
            divided = limiter._pace._divided
            look = divided._look

            async def slow_look(*given: Any) -> Any:  # noqa: ANN401 - as the one it stands for
                answer = await look(*given)
                await asyncio.sleep(1.5)
                return answer

            setattr(divided, "_look", slow_look)  # noqa: B010 - for the type checkers
            await asyncio.sleep(4)
            seen = divided._part.look if divided._part is not None else None
            assert seen is not None
            assert store.loop.time() - seen.asked_at >= 1.5
            # Each is too old before the next one arrives.
            assert not await limiter.try_acquire()

    on_a_store(work)


def test_a_process_that_starts_again_gets_no_burst() -> None:
    async def work(store: Store) -> None:
        times: list[float] = []
        for _ in range(6):
            async with store.client() as client:
                limiter = client.rate_limiter("r", 100, burst=100, ttl=2)
                for _ in range(30):
                    await limiter.acquire()
                    times.append(store.loop.time())
        judge(times, 100, 1)

    on_a_store(work)


def test_a_key_that_is_deleted_is_made_again() -> None:
    async def work(store: Store) -> None:
        async with store.client() as client:
            limiter = client.rate_limiter("r", 100, ttl=2)
            await limiter.acquire()
            await client.delete("r")
            await asyncio.sleep(1)
            await limiter.acquire()
            assert (await value_of(client, "r"))["mode"] == "divided"

    on_a_store(work)


def test_the_rate_and_the_mode_are_changed_for_all() -> None:
    async def work(store: Store) -> None:
        async with store.client() as one, store.client() as two:
            a = one.rate_limiter("r", 100, ttl=2)
            b = two.rate_limiter("r", 100, ttl=2)
            await asyncio.gather(a.acquire(), b.acquire())
            await a.set_rate(200)
            await asyncio.sleep(4)
            # The other one has left, though nobody has asked it.
            assert (await a.state()).share == 200
            with pytest.raises(coord.LimiterMismatch):
                await b.acquire()
            # Below the limit of auto it becomes a strict one, in which nobody gets anything for a ttl.
            changed = store.loop.time()
            await a.set_rate(20, burst=1)
            await a.acquire()
            assert store.loop.time() - changed >= 2
            assert (await a.state()).mode == "strict"
            assert await one.count("r/members/") == 0
            await a.set_rate(100)
            changed = store.loop.time()
            await a.acquire()
            assert store.loop.time() - changed >= 2
            assert (await a.state()).mode == "divided"
            await b.acquire()

    on_a_store(work)


async def test_an_answer_from_before_a_change_is_no_mismatch() -> None:
    async with coord.connect("memory:", runtime="inline") as client:
        limiter = client.rate_limiter("r", 10)
        await limiter.acquire()
        before = await client.get("r")
        await limiter.set_rate(20)
        limiter._pace._cell.learn(before)
        await limiter.acquire()


def test_a_divided_wait_ends_in_time() -> None:
    async def work(store: Store) -> None:
        async with store.client() as client:
            limiter = client.rate_limiter("r", 100, ttl=4)
            with pytest.raises(coord.RateLimitTimeout):
                await limiter.acquire(timeout=1)
            waiting = asyncio.ensure_future(limiter.acquire())
            await asyncio.sleep(1)
            await limiter.close()
            with pytest.raises(coord.ClientClosed):
                await waiting

    on_a_store(work)


# -- without the store ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["strict", "divided"])
def test_a_fallback_while_the_store_is_silent(mode: RateMode) -> None:
    async def work(store: Store) -> None:
        async with store.client() as client:
            limiter = client.rate_limiter("r", 100, mode=mode, ttl=4, fallback_rate=2)
            await limiter.acquire()
            heal = cut_off(client)
            await asyncio.sleep(4)
            times: list[float] = []
            for _ in range(20):
                await limiter.acquire()
                times.append(store.loop.time())
            judge(times, 2, 2)
            assert times[-1] - times[0] < 30
            heal()
            await asyncio.sleep(6)
            before = store.loop.time()
            for _ in range(50):
                await limiter.acquire()
            assert store.loop.time() - before < 3

    on_a_store(work)


def test_a_fallback_from_the_beginning() -> None:
    async def work(store: Store) -> None:
        async with store.client() as client:
            cut_off(client)
            limiter = client.rate_limiter("r", 10, fallback_rate=1)
            for _ in range(5):
                await limiter.acquire()
            divided = client.rate_limiter("d", 10, mode="divided", fallback_rate=1)
            for _ in range(5):
                await divided.acquire()

    on_a_store(work)


def test_without_a_fallback_the_error_is_raised() -> None:
    async def work(store: Store) -> None:
        async with store.client() as client:
            limiter = client.rate_limiter("r", 10)
            await limiter.acquire()
            cut_off(client)
            with pytest.raises((coord.Unavailable, coord.CoordTimeout, coord.AmbiguousResult)):
                await limiter.acquire()

    on_a_store(work)


# -- what is left of a batch ---------------------------------------------------------------------------------------


async def free(limiter: coord.RateLimiter) -> float:
    return round((await limiter.state()).available, 3)


def slow(client: coord.Client, *, batch: int = 1, batch_window: float = 1.0) -> coord.RateLimiter:
    """A limiter that gives no permit back by itself within a test."""
    return client.rate_limiter(
        "r", 1e-4, burst=100, mode="strict", batch=batch, batch_window=batch_window
    )


def test_a_batch_is_given_back_when_its_window_ends() -> None:
    async def main(loop: VirtualLoop) -> None:
        async with virtual_client(loop) as client:
            limiter = slow(client, batch=10, batch_window=5)
            await limiter.acquire(3)
            assert await free(limiter) == pytest.approx(90, abs=0.01)
            await asyncio.sleep(4)
            await limiter.acquire()
            assert await free(limiter) == pytest.approx(90, abs=0.01)
            await asyncio.sleep(2)
            assert await free(limiter) == pytest.approx(96, abs=0.01)
            # What is not enough is part of the next batch.
            await limiter.acquire(8)
            assert await free(limiter) == pytest.approx(86, abs=0.01)
            await limiter.acquire(4)
            assert await free(limiter) == pytest.approx(78, abs=0.01)
            await asyncio.sleep(6)
            assert await free(limiter) == pytest.approx(84, abs=0.01)

    run_virtual(main)


@pytest.mark.parametrize("how", ["limiter", "client", "dropped"])
def test_a_batch_is_given_back_at_the_end(how: str) -> None:
    async def work(store: Store) -> None:
        async with store.client() as watching:
            async with store.client() as client:
                limiter = slow(client, batch=10, batch_window=1000)
                await limiter.acquire()
                if how == "limiter":
                    await limiter.close()
                    await limiter.close()
                elif how == "dropped":
                    del limiter
                    gc.collect()
                    await asyncio.sleep(1)
                if how != "client":
                    assert await free(slow(watching)) == pytest.approx(99, abs=0.01)
            assert await free(slow(watching)) == pytest.approx(99, abs=0.01)

    on_a_store(work)


@pytest.mark.parametrize("turns", range(0, 40, 3))
def test_a_cancelled_wait_wastes_nothing(turns: int) -> None:
    async def main(loop: VirtualLoop) -> None:
        async with virtual_client(loop) as client:
            async with slow(client) as limiter:
                await limiter.acquire()
                waiting = asyncio.ensure_future(limiter.acquire(5))
                for _ in range(turns):
                    await asyncio.sleep(0)
                waiting.cancel()
                await asyncio.wait({waiting})
                await asyncio.sleep(0.1)
                used = 1 if waiting.cancelled() else 6
                if waiting.cancelled():
                    await limiter.acquire(5)  # with what was taken, if it was
                    used = 6
            assert await free(slow(client)) == pytest.approx(100 - used, abs=0.01)

    run_virtual(main)


@pytest.mark.parametrize("fault", [f for f in Fault if f is not Fault.NONE], ids=lambda f: f.value)
def test_a_batch_is_never_given_back_twice(fault: Fault) -> None:
    async def main(loop: VirtualLoop) -> None:
        async with virtual_client(loop) as client:
            limiter = slow(client, batch=10, batch_window=1)
            await limiter.acquire()
            faulty = make_faulty(client, [fault])
            await asyncio.sleep(30)
            await faulty.deliver_late()
            await asyncio.sleep(1)
            assert await free(limiter) <= 99.01
            await limiter.acquire()
            await asyncio.sleep(30)
            await faulty.deliver_late()
            assert await free(limiter) <= 98.02
            assert TXN in faulty.paths

    run_virtual(main)


def test_a_return_that_comes_late_changes_nothing() -> None:
    async def main(loop: VirtualLoop) -> None:
        async with virtual_client(loop) as client:
            limiter, other = slow(client, batch=10, batch_window=1), slow(client)
            await limiter.acquire()
            await other.acquire()
            faulty = make_faulty(client, [Fault.LATE])
            await asyncio.sleep(1.5)
            await other.acquire(20)
            before = await free(other)
            assert await faulty.deliver_late() == 1
            assert await free(other) == pytest.approx(before, abs=0.01)

    run_virtual(main)


# -- the order of processes ----------------------------------------------------------------------------------------


@pytest.fixture
async def pair(endpoint: str, prefix: str) -> AsyncIterator[tuple[coord.Client, coord.Client]]:
    async with (
        coord.connect(endpoint, namespace=f"fair/{prefix}") as one,
        coord.connect(endpoint, namespace=f"fair/{prefix}") as two,
    ):
        yield one, two


async def test_fair_is_first_come_first_served(pair: tuple[coord.Client, coord.Client]) -> None:
    one, two = (client.rate_limiter("r", 4, burst=1, fair=True) for client in pair)
    await one.acquire(timeout=WITHIN_S)
    order: list[str] = []

    async def use(limiter: coord.RateLimiter, who: str) -> None:
        await limiter.acquire(timeout=WITHIN_S)
        order.append(who)

    async with asyncio.TaskGroup() as group:
        for number, (limiter, who) in enumerate([(one, "a"), (two, "b")]):
            group.create_task(use(limiter, who))
            async with asyncio.timeout(WITHIN_S):
                while await pair[0].count("r/line/holders/") < number + 1:
                    await asyncio.sleep(0.01)
        group.create_task(use(one, "c"))
        await asyncio.sleep(0)
        # Somebody waits, so there is none for those who do not.
        assert not await two.try_acquire()
    assert order == ["a", "b", "c"]
    with pytest.raises(coord.RateLimitTimeout):
        await one.acquire(timeout=0.01)
    await asyncio.gather(one.acquire(timeout=WITHIN_S), two.acquire(timeout=WITHIN_S))
