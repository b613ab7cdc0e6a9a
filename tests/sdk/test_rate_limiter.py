"""Rate limiters: the fleet never gets more than the bound, whatever its clocks show."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from typing_extensions import override

import coord
from coord.client.connecting import open_client
from coord.core import Options
from coord.embed.memory import open_memory
from coord.recipes.rate_limiter.meter import Meter
from coord.target import Target, TargetKind
from coord.testing.virtual import VirtualClock, VirtualLoop, run_virtual, virtual_env
from tests.sdk.conftest import STORES
from tests.support.faulty import TXN, Fault, make_faulty
from tests.support.servers import ServerProcess


@pytest.fixture(params=[*STORES, "memory"])
async def inline(request: pytest.FixtureRequest, prefix: str) -> AsyncIterator[coord.Client]:
    """A client on the test's own loop, in a namespace of its own."""
    target = "memory:"
    if request.param != "memory":
        server: ServerProcess = request.getfixturevalue(f"{request.param}_process")
        target = server.endpoint
    async with coord.connect(target, runtime="inline", namespace=f"rate/{prefix}") as made:
        yield made


async def test_permits_come_at_the_rate(client: coord.Client, prefix: str) -> None:
    name = prefix + "r"
    limiter = client.rate_limiter(name, 20, burst=3)
    assert [await limiter.try_acquire() for _ in range(3)] == [True] * 3
    assert not await limiter.try_acquire(3)
    await limiter.acquire(2, timeout=20)
    found = await client.get_prefix(name)
    # The layout.
    assert [kv.key for kv in found.items] == [name.encode()]
    fields = json.loads(found.items[0].value)
    assert set(fields) == {"rate", "burst", "tat_us", "now_us", "mode"}
    assert (fields["rate"], fields["burst"], fields["mode"]) == (20, 3, "strict")


async def test_the_cost(inline: coord.Client) -> None:
    limiter = inline.rate_limiter("r", 1000, mode="strict")
    await limiter.acquire()
    seen = make_faulty(inline)
    await limiter.acquire()
    assert seen.paths == [TXN]
    batched = inline.rate_limiter("b", 1e6, burst=1e6, mode="strict", batch=10, batch_window=1000)
    await batched.acquire()
    seen.paths.clear()
    for _ in range(9 + 20):
        await batched.acquire()
    assert seen.paths == [TXN, TXN]


async def test_what_is_refused(inline: coord.Client) -> None:
    for rate, burst in ((0, None), (-1, None), (float("inf"), None), (float("nan"), None), (1, 0)):
        with pytest.raises(coord.InvalidArgument):
            inline.rate_limiter("r", rate, burst=burst)
    limiter = inline.rate_limiter("r", 10, burst=5)
    for n in (0, -1):
        with pytest.raises(coord.InvalidArgument, match="n must"):
            await limiter.acquire(n)
    with pytest.raises(coord.InvalidArgument, match="never come at once"):
        await limiter.acquire(6)
    with pytest.raises(coord.InvalidArgument, match="batch"):
        inline.rate_limiter("r", 1, batch=0)
    await inline.put("junk", "{}")
    with pytest.raises(coord.CoordError, match="is no rate limiter"):
        await inline.rate_limiter("junk", 1).acquire()


async def test_another_rate(client: coord.Client, prefix: str) -> None:
    one = client.rate_limiter(prefix + "r", 0.001, burst=2)
    assert await one.try_acquire(2)
    other = client.rate_limiter(prefix + "r", 5)
    with pytest.raises(coord.LimiterMismatch) as caught:
        await other.acquire()
    assert (caught.value.stored, caught.value.given) == ((0.001, 2), (5, 5))
    await one.set_rate(5)
    # Two permits of the old rate are still in use: at the new one they last for 0.4 seconds.
    await other.acquire(timeout=20)
    await one.acquire(timeout=20)


async def test_time_outs(inline: coord.Client) -> None:
    limiter = inline.rate_limiter("r", 0.01, burst=1)
    await limiter.acquire(timeout=10)
    with pytest.raises(coord.RateLimitTimeout, match="the next permit is"):
        await limiter.acquire(timeout=10)  # known at once
    waiting = asyncio.ensure_future(limiter.acquire())
    await asyncio.sleep(0)
    await asyncio.sleep(0.05)
    with pytest.raises(coord.RateLimitTimeout, match="others of this process"):
        await limiter.acquire(timeout=0.05)
    assert not await limiter.try_acquire()
    waiting.cancel()
    await asyncio.wait({waiting})
    assert not await limiter.try_acquire()


@pytest.mark.parametrize("fault", [f for f in Fault if f is not Fault.NONE], ids=lambda f: f.value)
async def test_a_permit_is_taken_exactly_once(inline: coord.Client, fault: Fault) -> None:
    limiter = inline.rate_limiter("r", 0.001, burst=2)
    faulty = make_faulty(inline, [fault])
    assert await limiter.try_acquire()
    await faulty.deliver_late()
    assert await limiter.try_acquire()
    assert not await limiter.try_acquire()


async def test_many_at_once(inline: coord.Client) -> None:
    limiters = [inline.rate_limiter("r", 0.001, burst=10) for _ in range(6)]
    got = await asyncio.wait_for(
        asyncio.gather(*[each.try_acquire() for each in limiters for _ in range(4)]), 60
    )
    # Those who found somebody waiting in their own line were refused; nobody was given too much.
    assert sum(got) <= 10
    while await limiters[0].try_acquire():
        got.append(True)
    assert sum(got) == 10


# The bound, in virtual time.


class Skewed(VirtualClock):
    """A clock that shows another time."""

    def __init__(self, loop: asyncio.AbstractEventLoop, ahead: float) -> None:
        super().__init__(loop)
        self.ahead = ahead

    @override
    def wall(self) -> float:
        return super().wall() + self.ahead


def judge(times: list[float], rate: float, burst: float, skew: float) -> None:
    """No window has more than ``rate * T + burst + rate * skew`` permits."""
    for first, last in itertools.combinations_with_replacement(range(len(times)), 2):
        allowed = rate * (times[last] - times[first]) + burst + rate * skew
        assert last - first + 1 <= allowed + 1e-3


def test_the_judge_sees_too_many() -> None:
    judge([0, 0, 1, 2], 1, 2, 0)
    with pytest.raises(AssertionError):
        judge([0, 0, 0.5, 1], 1, 2, 0)


@pytest.mark.parametrize("seed", range(3))
def test_twenty_clients_with_skewed_clocks(seed: int) -> None:
    chance = random.Random(seed)
    rate, burst = 10.0, 5.0

    async def main(loop: VirtualLoop) -> None:
        env = virtual_env(loop)
        opened = await open_memory(env)
        target = Target(kind=TargetKind.ENDPOINTS, endpoints=opened.endpoints)
        options = Options(target=target, placement="inline")
        times: list[float] = []

        async def use(ahead: float, pause: float) -> None:
            world = replace(env, net=opened.net, clock=Skewed(loop, ahead))
            async with await open_client(options, world) as client:
                limiter = client.rate_limiter("r", rate, burst=burst)
                for _ in range(6):
                    n = chance.choice([1, 1, 1, 2])
                    await limiter.acquire(n)
                    times.extend([loop.time()] * n)
                    await asyncio.sleep(chance.uniform(0, pause))

        async with asyncio.TaskGroup() as group:
            for _ in range(20):
                group.create_task(use(chance.uniform(-0.2, 0.2), chance.choice([0, 0.2, 3])))
        await opened.close()
        assert len(times) > 120
        judge(sorted(times), rate, burst, 0.4)
        # Nor are permits withheld: all of them took about as long as they had to.
        assert max(times) - min(times) < 60

    run_virtual(main)


def test_the_meter() -> None:
    meter = Meter(rate=3, burst=2)
    now = 1_000_000_000
    given = 0
    for _ in range(10_000):
        new, earliest = meter.after(1, now)
        if new is None:
            assert earliest > now
            now = earliest
        else:
            meter, given = new, given + 1
    # Rounding is never in favour of those who ask.
    assert given <= 2 + (now - 1_000_000_000) * 3 / 1e6
    assert Meter.decode(b"k", meter.encode()) == meter
    # A clock that goes back gives nothing.
    assert meter.after(2, now - 10_000_000)[0] is None


def test_a_slow_clock_is_not_starved() -> None:
    """It goes by the latest time that anybody told."""
    fast, _ = Meter(rate=1, burst=5).after(1, 100_000_000)
    assert fast is not None
    slow, _ = fast.after(1, 90_000_000)
    assert slow is not None
    assert (slow.now_us, slow.tat_us) == (100_000_000, 102_000_000)
