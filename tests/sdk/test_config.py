"""Configuration: only what is committed and valid is seen, whatever is written and whoever is away."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import coord
from coord.recipes.config.snapshot import SnapshotFile
from coord.recipes.config.sources import takes
from coord.runtime import RealOffload
from tests.sdk.conftest import STORES
from tests.support.faulty import TXN, Fault, make_faulty
from tests.support.proxy import Proxy
from tests.support.servers import ServerProcess

RANGE = "/etcdserverpb.KV/Range"


@dataclass(frozen=True)
class Limits:
    rate: int
    hosts: list[str] = field(default_factory=list[str])


def positive(limits: Limits) -> None:
    if limits.rate <= 0:
        raise ValueError("rate must be positive")


@pytest.fixture(params=[*STORES, "memory"])
async def inline(request: pytest.FixtureRequest, prefix: str) -> AsyncIterator[coord.Client]:
    """A client on the test's own loop, in a namespace of its own."""
    target = "memory:"
    if request.param != "memory":
        server: ServerProcess = request.getfixturevalue(f"{request.param}_process")
        target = server.endpoint
    async with coord.connect(target, runtime="inline", namespace=f"config/{prefix}") as made:
        yield made


# Reading.


async def test_it_is_read_and_followed(client: coord.Client, prefix: str) -> None:
    name = prefix + "limits"
    put = await client.put(name, '{"rate": 5}')
    async with await client.config(name, Limits) as config:
        assert config.state == coord.ConfigState(
            value=Limits(5), revision=put.revision, source="store"
        )
        changes = config.changes()
        revision = await config.publish(Limits(6, ["a"]))
        state = await anext(changes)
        assert (state.value, state.revision, state.source) == (Limits(6, ["a"]), revision, "store")
        await config.wait_revision(revision, timeout=10)
        assert config.value == Limits(6, ["a"])
        assert config.stale_for == 0
    # The layout.
    found = await client.get_prefix(name)
    assert [(kv.key, kv.value) for kv in found.items] == [
        (name.encode(), b'{"rate":6,"hosts":["a"]}'),
        (f"{name}/history/{put.revision:020}".encode(), b'{"rate": 5}'),
    ]


async def test_one_change_is_one_notification(inline: coord.Client) -> None:
    await inline.put("c", "0")
    async with await inline.config("c", int) as config:
        changes = config.changes()
        told: list[int] = []
        for n in range(1, 6):
            await config.publish(n)
            told.append((await anext(changes)).value)
        assert told == [1, 2, 3, 4, 5]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(changes), 0.1)


async def test_reading_costs_nothing(inline: coord.Client) -> None:
    await inline.put("c", "1")
    async with await inline.config("c", int) as config:
        seen = make_faulty(inline)
        assert [config.value for _ in range(100)] == [1] * 100
        await config.publish(2)
        seen.paths.clear()
        await config.publish(3)
        await config.wait_revision(config.revision)
        assert seen.paths == [TXN]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "Expecting"),
        ('{"rate": "x"}', "rate"),
        ('{"rate": 0}', "ValueError: rate must be positive"),
        ("", ""),
    ],
)
async def test_a_bad_update_keeps_the_last_good_value(
    client: coord.Client, prefix: str, text: str, reason: str
) -> None:
    name = prefix + "c"
    await client.put(name, '{"rate": 5}')
    async with await client.config(name, Limits, validate=positive) as config:
        changes = config.changes()
        bad = await client.put(name, text)
        state = await anext(changes)
        assert (state.value, state.revision) == (Limits(5), bad.revision)
        assert state.invalid is not None
        assert (state.invalid.name, state.invalid.revision) == (name.encode(), bad.revision)
        assert reason in state.invalid.reason
        assert config.invalid is state.invalid
        good = await client.put(name, '{"rate": 7}')
        state = await anext(changes)
        assert (state.value, state.revision, state.invalid) == (Limits(7), good.revision, None)


async def test_a_validator_that_says_no(inline: coord.Client) -> None:
    await inline.put("c", "5")
    async with await inline.config("c", int, validate=lambda n: n != 6) as config:
        for call in (config.publish(6), config.canary(6, 1)):
            with pytest.raises(coord.ConfigInvalid, match="refused by the validator"):
                await call
        assert (await inline.get("c")) is not None
        assert config.value == 5


async def test_deletion(client: coord.Client, prefix: str) -> None:
    name = prefix + "c"
    await client.put(name, "5")
    async with await client.config(name, int) as config:
        changes = config.changes()
        await client.delete(name)
        state = await anext(changes)
        assert state.value == 5
        assert state.invalid is not None
        assert "deleted" in state.invalid.reason


async def test_a_default(client: coord.Client, prefix: str) -> None:
    name = prefix + "c"
    async with await client.config(name, int, default=3) as config:
        assert (config.value, config.state.source, config.revision) == (3, "default", 0)
        changes = config.changes()
        await config.publish(4)
        assert (await anext(changes)).value == 4
        await client.delete(name)
        state = await anext(changes)
        assert (state.value, state.source) == (3, "default")
        assert state.revision > 0


async def test_nothing_to_start_with(inline: coord.Client) -> None:
    with pytest.raises(coord.ConfigUnavailable, match="nobody has published"):
        await inline.config("c", int)
    await inline.put("c", "x")
    with pytest.raises(coord.ConfigInvalid):
        await inline.config("c", int)
    async with await inline.config("c", int, default=1) as config:
        assert config.value == 1
        assert config.invalid is not None


async def test_slow_readers_get_the_newest(inline: coord.Client) -> None:
    await inline.put("c", "0")
    async with await inline.config("c", int) as config:
        changes = config.changes()
        revision = 0
        for n in range(1, 51):
            revision = await config.publish(n)
        await config.wait_revision(revision, timeout=10)
        assert (await anext(changes)).value == 50


async def test_jitter(inline: coord.Client) -> None:
    await inline.put("c", "0")
    async with await inline.config("c", int) as config:
        changes = config.changes(jitter=0.05)
        await config.publish(1)
        assert (await anext(changes)).value == 1
        with pytest.raises(coord.InvalidArgument):
            config.changes(jitter=-1)


# Publishing.


async def test_expected_revisions(client: coord.Client, prefix: str) -> None:
    name = prefix + "c"
    async with (
        await client.config(name, int, default=0) as one,
        await client.config(name, int, default=0) as two,
    ):
        first = await one.publish(1, expected_revision=0)
        with pytest.raises(coord.Conflict) as caught:
            await two.publish(2, expected_revision=0)
        assert (caught.value.expected, caught.value.actual) == (0, first)
        second = await two.publish(2, expected_revision=first)
        with pytest.raises(coord.Conflict):
            await one.publish(3, expected_revision=first)
        canary = await one.canary(9, 0)
        with pytest.raises(coord.Conflict) as caught:
            await one.publish(3, expected_revision=second)
        assert caught.value.actual == canary
        assert await one.publish(3, expected_revision=canary) > canary


async def test_publishers_in_each_other_s_way(client: coord.Client, prefix: str) -> None:
    """None is lost: each has its place in the history."""
    name = prefix + "c"
    async with await client.config(name, int, default=0, history=100) as config:
        async with asyncio.TaskGroup() as group:
            for n in range(1, 13):
                group.create_task(config.publish(n, timeout=30))
        old = [int(v.value or b"") for v in await config.history()]
        last = await client.get(name)
        assert last is not None
        assert sorted([*old, int(last.value)]) == list(range(1, 13))


async def test_rollback(client: coord.Client, prefix: str) -> None:
    name = prefix + "c"
    async with await client.config(name, int, default=0, history=3) as config:
        revisions = [await config.publish(n) for n in range(1, 7)]
        back = await config.rollback(revisions[3])
        await config.wait_revision(back, timeout=10)
        assert (config.value, config.revision) == (4, back)
        assert await config.rollback(back) > back  # the same again is a new revision
        with pytest.raises(coord.ConfigUnavailable, match="not in its history"):
            await config.rollback(1)
        mistake = await client.put(name, "x")
        repaired = await config.rollback(await config.rollback(revisions[5]))
        assert repaired > mistake.revision
        lost = await client.put(name, "7")
        await client.put(name, "x")
        assert await config.rollback(lost.revision) > lost.revision  # the store still knows it
        await config.wait_revision(repaired, timeout=10)
        with pytest.raises(coord.ConfigUnavailable):
            await config.rollback(mistake.revision + 10_000)
        with pytest.raises(coord.ConfigInvalid):
            await config.rollback(mistake.revision)
        listed = await config.history()
        assert [v.revision for v in listed] == sorted([v.revision for v in listed], reverse=True)


async def test_the_history_is_bounded(inline: coord.Client) -> None:
    async with await inline.config("c", int, default=0, history=3) as config:
        for n in range(40):
            await config.publish(n)
            assert len(await config.history()) <= 3 + 8
        kept = [int(v.value or b"") for v in await config.history()]
        assert kept[:3] == [38, 37, 36]
    async with await inline.config("d", int, default=0, history=0) as config:
        await config.publish(1)
        await config.publish(2)
        assert await config.history() == ()


async def test_what_cannot_be_published(inline: coord.Client) -> None:
    async with await inline.config("c", str, default="") as config:
        with pytest.raises(coord.PayloadTooLarge, match="the configuration"):
            await config.publish("x" * (512 * 1024 + 1))
        with pytest.raises(coord.InvalidArgument, match="JSON"):
            await config.canary("no JSON", 5)
        for percent in (-1, 101):
            with pytest.raises(coord.InvalidArgument, match="percent"):
                await config.canary("5", percent)
    with pytest.raises(coord.InvalidArgument, match="history"):
        await inline.config("c", int, history=-1)


@pytest.mark.parametrize("fault", [f for f in Fault if f is not Fault.NONE], ids=lambda f: f.value)
async def test_published_exactly_once(inline: coord.Client, fault: Fault) -> None:
    async with await inline.config("c", int, default=0) as config:
        await config.publish(1)
        faulty = make_faulty(inline, [fault])
        revision = await config.publish(2)
        await faulty.deliver_late()
        found = await inline.get("c")
        assert found is not None
        assert (found.value, found.mod_revision, found.version) == (b"2", revision, 2)
        faulty.plan.append(fault)
        await config.canary(3, 100)
        found = await inline.get("c/canary")
        await faulty.deliver_late()
        assert await inline.get("c/canary") == found


# Canaries.


async def test_a_canary(client: coord.Client, prefix: str) -> None:
    name = prefix + "c"
    async with await client.config(name, Limits, default=Limits(1)) as config:
        await config.publish(Limits(1))
        changes = config.changes()
        tried = await config.canary(Limits(2), 100)
        state = await anext(changes)
        while state.source != "canary":
            state = await anext(changes)
        assert (state.value, state.revision) == (Limits(2), tried)
        stored = await client.get(name + "/canary")
        assert stored is not None
        fields = json.loads(stored.value)
        assert (fields["percent"], fields["value"]) == (100, {"rate": 2, "hosts": []})
        assert set(fields) == {"percent", "salt", "value"}
        ended = await config.canary(Limits(2), 0)
        state = await anext(changes)
        assert (state.value, state.source, state.revision) == (Limits(1), "store", ended)
        await config.canary(Limits(2), 100)
        await anext(changes)
        published = await config.publish(Limits(3))
        state = await anext(changes)
        assert (state.value, state.source, state.revision) == (Limits(3), "store", published)
    async with await client.config(name, Limits) as again:
        assert (again.value, again.revision) == (Limits(3), published)


async def test_the_fleet_divides(inline: coord.Client) -> None:
    async with await inline.config("c", int, default=0) as config:
        await config.publish(1)
        names = [f"host-{n}" for n in range(400)]

        async def takers(percent: float) -> set[str]:
            await config.canary(2, percent)
            stored = await inline.get("c/canary")
            assert stored is not None
            salt: str = json.loads(stored.value)["salt"]
            return {name for name in names if takes(name, salt, percent)}

        few, more, all_ = await takers(10), await takers(40), await takers(100)
        assert few < more < all_ == set(names)
        assert 15 < len(few) < 75
        assert 110 < len(more) < 210
        one = next(iter(few))
        await takers(10)
        async with await inline.config("c", int, instance=one) as chosen:
            assert (chosen.value, chosen.state.source) == (2, "canary")
        other = next(iter(set(names) - few))
        async with await inline.config("c", int, instance=other) as spared:
            assert (spared.value, spared.state.source) == (1, "store")
            assert spared.revision > 0
        # Another value draws anew.
        await config.canary(3, 10)
        stored = await inline.get("c/canary")
        assert stored is not None
        assert {n for n in names if takes(n, json.loads(stored.value)["salt"], 10)} != few


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"percent": 100}', '{"percent":100,"salt":"","value":"x"}']
)
async def test_a_bad_canary(inline: coord.Client, text: str) -> None:
    await inline.put("c", "1")
    await inline.put("c/canary", text)
    async with await inline.config("c", int) as config:
        assert (config.value, config.state.source) == (1, "store")
        assert config.invalid is not None
        assert await config.canary(2, 100) > 0


# Trees.


async def test_a_tree_switches_as_a_whole(client: coord.Client, prefix: str) -> None:
    name = prefix + "t"
    async with await client.config(name, dict[str, Any], default={}, tree=True) as config:
        await config.publish({"a": 0, "b": {"x": 0, "y": "s"}, "gone": [1]})
        found = await client.get_prefix(name)
        assert {kv.key.decode().removeprefix(name): kv.value for kv in found.items} == {
            "/a": b"0",
            "/b/x": b"0",
            "/b/y": b'"s"',
            "/gone": b"[1]",
        }
        changes = config.changes()
        for n in range(1, 11):
            await config.publish({"a": n, "b": {"x": n, "y": "s"}})
        while True:
            state = await anext(changes)
            assert state.value["a"] == state.value["b"]["x"]
            if state.value["a"] == 10:
                break
        assert state.value == {"a": 10, "b": {"x": 10, "y": "s"}}
        assert await config.publish(state.value) >= state.revision
        with pytest.raises(coord.Conflict):
            await config.publish({"a": 1}, expected_revision=1)
        for call in (config.rollback(1), config.history(), config.canary({}, 1)):
            with pytest.raises(coord.InvalidArgument, match="not a tree"):
                await call


async def test_a_tree_that_is_none(client: coord.Client, prefix: str) -> None:
    name = prefix + "t"
    await client.put(name + "/a", "1")
    async with await client.config(name, dict[str, Any], tree=True) as config:
        changes = config.changes()
        for key, value, reason in (
            ("a/b", "2", "'a"),
            ("c", "{", "no JSON"),
        ):
            await client.put(f"{name}/{key}", value)
            state = await anext(changes)
            assert state.value == {"a": 1}
            assert state.invalid is not None
            assert reason in state.invalid.reason
            await client.delete(f"{name}/{key}")
            state = await anext(changes)
            assert (state.value, state.invalid) == ({"a": 1}, None)
        for wrong in ({"": 1}, {"a/b": 1}):
            with pytest.raises(coord.ConfigInvalid, match="no name"):
                await config.publish(wrong)


async def test_trees_in_each_other_s_way(inline: coord.Client) -> None:
    """What another publisher has added or deleted meanwhile is not overlooked."""
    async with await inline.config("t", dict[str, int], default={}, tree=True) as config:
        revision = await config.publish({"a": 1, "b": 2})
        await config.wait_revision(revision, timeout=10)
        faulty = make_faulty(inline)
        meddling = iter([inline.delete("t/a"), inline.put("t/c", "3")])
        run = inline._core.markers.run

        async def late(*args: Any, **options: Any) -> Any:  # noqa: ANN401
            for step in meddling:
                await step
                break
            return await run(*args, **options)

        inline._core.markers.run = late  # type: ignore[method-assign]
        for n in (5, 6):
            await config.publish({"a": 1, "b": n})
            found = await inline.get_prefix("t/")
            assert {kv.key: kv.value for kv in found.items} == {b"t/a": b"1", b"t/b": b"%d" % n}
        inline._core.markers.run = run  # type: ignore[method-assign]
        assert faulty.paths.count(RANGE) >= 1


# While the store is away.


async def test_a_cold_start_from_a_snapshot(endpoint: str, prefix: str, tmp_path: Path) -> None:
    name, path = prefix + "c", str(tmp_path / "limits")
    async with coord.connect(endpoint) as client:
        await client.put(name, '{"rate": 5}')
        async with await client.config(name, Limits, snapshot=path) as config:
            assert config.state.source == "store"
            await config.publish(Limits(6))
            revision = await config.publish(Limits(7))
            await config.wait_revision(revision)
    async with Proxy(endpoint) as proxy:
        proxy.hold_answers()
        async with (
            coord.connect(proxy.endpoint) as client,
            await client.config(name, Limits, snapshot=path, timeout=0.3) as config,
        ):
            state = config.state
            assert state.source == "disk"
            assert state.value.rate in {5, 6, 7}  # what was saved last
            assert config.stale_for == float("inf")
            changes = config.changes()
            proxy.pass_on()
            state = await anext(changes)
            assert (state.value, state.source, state.revision) == (Limits(7), "store", revision)
            assert config.stale_for < 30


async def test_neither_store_nor_snapshot(endpoint: str, tmp_path: Path, prefix: str) -> None:
    path = tmp_path / "limits"
    async with Proxy(endpoint) as proxy:
        proxy.hold_answers()
        async with coord.connect(proxy.endpoint, request_timeout=0.3) as client:
            for text in (None, b"junk", b"coord-config 1 5 " + b"0" * 64 + b"\n5"):
                if text is not None:
                    path.write_bytes(text)
                with pytest.raises(coord.ConfigUnavailable, match="did not answer"):
                    await client.config(prefix + "c", int, snapshot=str(path), default=1)
            with pytest.raises(coord.ConfigUnavailable, match="did not answer"):
                await client.config(prefix + "c", int, timeout=0.1)


async def test_an_invalid_document_is_replaced_by_the_snapshot(
    inline: coord.Client, tmp_path: Path
) -> None:
    path = str(tmp_path / "c")
    await inline.put("c", "5")
    async with await inline.config("c", int, snapshot=path):
        pass
    await inline.put("c", "x")
    async with await inline.config("c", int, snapshot=path) as config:
        assert (config.value, config.state.source) == (5, "disk")
        assert config.invalid is not None


async def test_a_snapshot_that_was_changed_is_none(tmp_path: Path) -> None:
    path = tmp_path / "c"
    offload = RealOffload()
    file = SnapshotFile(str(path), offload)
    from coord.recipes.config.sources import Document

    await file.write(Document(raw=b'{"a":1}', revision=12))
    assert await file.read() == Document(raw=b'{"a":1}', revision=12)
    whole = path.read_bytes()
    for n in range(len(whole)):
        path.write_bytes(whole[:n] + bytes([whole[n] ^ 1]) + whole[n + 1 :])
        assert await file.read() is None
        path.write_bytes(whole[:n])
        assert await file.read() is None
    offload.close()


async def test_a_snapshot_that_cannot_be_written(inline: coord.Client, tmp_path: Path) -> None:
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    await inline.put("c", "5")
    path = str(tmp_path / "missing" / "c")
    async with await inline.config("c", int, snapshot=path) as config:
        assert config.value == 5
        revision = await config.publish(6)
        await config.wait_revision(revision, timeout=10)
    assert all("no snapshot" in each["message"] for each in told)
    assert told


async def test_lost_connections(endpoint: str, prefix: str) -> None:
    name = prefix + "c"
    async with coord.connect(endpoint) as direct, Proxy(endpoint) as proxy:
        await direct.put(name, "0")
        async with (
            coord.connect(proxy.endpoint) as client,
            await client.config(name, int) as config,
        ):
            changes = config.changes()
            last = 0
            for n in range(1, 4):
                proxy.cut()
                put = await direct.put(name, str(n))
                state = await anext(changes)
                assert (state.value, state.revision) == (n, put.revision)
                assert state.revision > last
                last = state.revision


async def test_a_closed_config(client: coord.Client, prefix: str) -> None:
    await client.put(prefix + "c", "5")
    config = await client.config(prefix + "c", int)
    await config.close()
    await config.close()
    assert config.value == 5


async def test_a_cancelled_close_leaves_no_watch_behind() -> None:
    async with coord.connect("memory:", runtime="inline") as client:
        config = await client.config("c", int, default=0)
        closing = asyncio.ensure_future(config.close())
        await asyncio.sleep(0)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        assert not client._core.watches.feeds()
