"""What recipes write is bounded, and those with very many keys are told (recipes C16)."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Awaitable, Callable

import pytest

import coord
from coord import notices
from coord.wire import rpc_pb2
from tests.support.faulty import make_faulty

LIMIT = 512 * 1024


async def stm_put(client: coord.Client, value: bytes) -> None:
    def put(tx: coord.StmTxn) -> None:
        tx.put("k", value)

    async def fn(tx: coord.StmTxn) -> None:
        put(tx)

    await client.stm(fn)


async def lead(client: coord.Client, value: bytes) -> None:
    async with client.election("e").lead(value):
        pass


async def run(client: coord.Client, value: bytes) -> None:
    async def fn(_: coord.Term) -> None:
        return

    await client.election("e").run(fn, value=value, rejoin=False)


async def lock(client: coord.Client, value: bytes) -> None:
    await client.mutex("m", label=value.decode()).try_acquire()


async def campaign(client: coord.Client, value: bytes) -> None:
    await (await client.election("e").campaign(value)).resign()


GIVEN: dict[str, Callable[[coord.Client, bytes], Awaitable[None]]] = {
    "campaign": campaign,
    "lead": lead,
    "run": run,
    "label": lock,
    "stm": stm_put,
}


@pytest.mark.parametrize("give", GIVEN.values(), ids=GIVEN)
async def test_a_value_too_large_is_refused_before_anything_is_sent(
    give: Callable[[coord.Client, bytes], Awaitable[None]],
) -> None:
    # No store: with a value that fits, the same call would look for it.
    async with coord.connect("127.0.0.1:1", request_timeout=0.05) as client:
        with pytest.raises(coord.PayloadTooLarge, match="at most 524288 are allowed") as refused:
            await asyncio.wait_for(give(client, b"x" * (LIMIT + 1)), 10)
    assert (refused.value.size_bytes, refused.value.limit_bytes) == (LIMIT + 1, LIMIT)


@pytest.mark.parametrize("give", GIVEN.values(), ids=GIVEN)
async def test_the_limit_itself_fits_and_may_be_another(
    give: Callable[[coord.Client, bytes], Awaitable[None]],
) -> None:
    async with coord.connect("memory:", max_value_bytes=10) as client:
        await give(client, b"x" * 10)
        with pytest.raises(coord.PayloadTooLarge, match="has 11 bytes"):
            await give(client, b"x" * 11)
    with pytest.raises(coord.InvalidArgument, match="max_value_bytes must be at least 1"):
        coord.connect("memory:", max_value_bytes=0)


async def test_a_proclamation_too_large_leaves_the_term_as_it_is() -> None:
    async with (
        coord.connect("memory:") as client,
        client.election("e").lead(b"x" * LIMIT) as term,
    ):
        with pytest.raises(coord.PayloadTooLarge, match="the value of election 'e'"):
            await term.proclaim(b"x" * (LIMIT + 1))
        term.check()
        assert (await client.election("e").leader()).value == b"x" * LIMIT


async def test_a_line_is_read_in_pages_of_one_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    async with coord.connect("memory:", runtime="inline") as client:
        # The newest first in key order.
        keys = [f"e/{number:03d}" for number in range(300, 0, -1)]
        for key in keys:
            await client.put(key, b"")
        kv = client._core.kv
        read, asked = kv.range, list[int]()

        async def range_then_put(
            request: rpc_pb2.RangeRequest, *, timeout: float | None = None
        ) -> coord.RangeResult:
            asked.append(request.revision)
            result = await read(request, timeout=timeout)
            await client.put("e/999", b"")  # between two pages
            return result

        monkeypatch.setattr(kv, "range", range_then_put)
        candidates = await client.election("e").candidates(timeout=20)
        assert [each.key.decode() for each in candidates] == keys
        assert asked == [0, candidates[-1].token]
        explained = await client.explain("e")
        assert isinstance(explained, coord.NameExplanation)
        assert [each.key.decode() for each in explained.line] == [*keys, "e/999"]


async def test_very_many_keys_are_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "MANY_KEYS", 3)
    async with coord.connect("memory:", runtime="inline") as client:
        for number in range(3):
            await client.put(f"e/{number}", b"")
        async with client.cache(prefix="e/") as view:
            with warnings.catch_warnings(record=True) as heard:
                warnings.simplefilter("always")
                await client.election("e").candidates()
                assert heard == []  # exactly as many as may be
                done = await client.put("e/3", b"")
                await view.wait_revision(done.revision)
                done = await client.put("e/4", b"")
                await view.wait_revision(done.revision)
                await client.election("e").candidates()
                await client.election("e").candidates()
    assert [warning.category for warning in heard] == [coord.KeyCountWarning] * 2
    told = [str(warning.message) for warning in heard]
    assert told[0].startswith("the cache of [b'e/', b'e0') has 4 keys, and more than 3 are")
    assert told[1].startswith("the line for 'e' has 5 keys")


@pytest.mark.parametrize("kind", ["mutex", "multi_lock"])
async def test_who_lines_up_behind_very_many_is_told_once(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(notices, "MANY_KEYS", 3)
    async with coord.connect("memory:", runtime="inline") as client:
        lock = client.mutex("m") if kind == "mutex" else client.multi_lock(["m", "n"])

        async def line_up(count: int) -> None:
            # No time-out, since that looks at the whole line.
            waiting = asyncio.ensure_future(lock.acquire())
            for wanted in (count, count - 1):
                async with asyncio.timeout(20):
                    while await client.count("m/") != wanted:
                        await asyncio.sleep(0)
                waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting

        for number in range(2):
            await client.put(f"m/{number}", b"")
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            await line_up(3)
            assert heard == []  # with our own exactly as many as may be
            await client.put("m/2", b"")
            await line_up(4)
            await line_up(4)
            assert len(heard) == 1
            await client.mutex("m").waiters()  # which would tell the same
    assert [warning.category for warning in heard] == [coord.KeyCountWarning]
    assert str(heard[0].message).startswith("the line for 'm' has 4 keys")


async def test_a_long_line_of_a_mutex_is_read_in_pages() -> None:
    async with (
        coord.connect("memory:", runtime="inline") as client,
        client.session(ttl=60) as session,
    ):
        mutex = client.mutex("m", session=session)
        held = await mutex.acquire()
        keys = [f"m/{number:03}" for number in range(600)]
        for key in keys:
            await client.put(key, b"")
        faulty = make_faulty(client)
        waiters = await mutex.waiters()
        assert [each.key.decode() for each in waiters] == keys
        assert len(faulty.paths) > 1
        faulty.paths.clear()
        assert await mutex.break_lock(waiters[-1].token, reason="tidying up")
        assert len(faulty.paths) > 2
        faulty.paths.clear()
        async with client.session(ttl=60) as other:
            with pytest.raises(coord.LockTimeout, match="600 ahead of us"):
                await client.mutex("m", session=other).acquire(timeout=0.05)
        await held.release()


async def test_a_reason_to_break_a_lock_is_of_bounded_size() -> None:
    async with coord.connect("memory:", runtime="inline", max_value_bytes=8) as client:
        grant = await client.mutex("m").acquire()
        with pytest.raises(coord.PayloadTooLarge, match="reason to break a lock has 9 bytes"):
            await client.mutex("m").break_lock(grant.token, reason="x" * 9)
        assert await client.get(grant.key) is not None
        assert await client.mutex("m").break_lock(grant.token, reason="x" * 8)
        await grant.release()


async def test_a_warning_made_an_error_breaks_no_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "MANY_KEYS", 0)
    failed: list[object] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda _, context: failed.append(context.get("exception"))
    )
    async with coord.connect("memory:", runtime="inline") as client:
        await client.put("e/1", b"")
        with warnings.catch_warnings():
            warnings.simplefilter("error", coord.CoordWarning)
            assert len(await client.election("e").candidates()) == 1
    assert [type(each) for each in failed] == [coord.KeyCountWarning]
