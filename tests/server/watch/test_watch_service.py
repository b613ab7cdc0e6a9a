"""The Watch service over the wire, by rows of the API and gotchas 51-79 (etcd API: Watch)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest

from coord.wire import kv_pb2, rpc_pb2
from coord.wire import methods as rpcs
from coord_server.mvcc.hub import Watcher
from coord_server.replica import Replica
from tests.server.endpoint import Endpoint, error_of, serving

PUT, DELETE = kv_pb2.Event.PUT, kv_pb2.Event.DELETE
NOPUT, NODELETE = rpc_pb2.WatchCreateRequest.NOPUT, rpc_pb2.WatchCreateRequest.NODELETE


@pytest.fixture
async def endpoint() -> AsyncIterator[Endpoint]:
    async with serving(watch_progress_notify_interval_s=0.1) as running:
        yield running


def brief(response: rpc_pb2.WatchResponse) -> list[tuple[int, bytes, int]]:
    return [(event.type, event.kv.key, event.kv.mod_revision) for event in response.events]


def _watchers(endpoint: Endpoint) -> list[Watcher]:
    hub = endpoint.server._state.hub
    groups = hub._groups.around(b"k")
    return [watcher for group in groups for watcher in group.members]


# Creating and cancelling.


async def test_created_comes_first_even_with_history(endpoint: Endpoint) -> None:  # 51, 60
    first = await endpoint.put(b"k")
    watch = endpoint.watch()
    await watch.create(b"k", start_revision=first)
    created = await watch.response()
    assert created.created
    assert created.header.revision == first
    assert created.header.raft_term
    assert brief(await watch.response()) == [(PUT, b"k", first)]
    await watch.created(b"k")
    second = await endpoint.put(b"k")
    both = [await watch.response(), await watch.response()]
    assert {response.watch_id for response in both} == {0, 1}
    assert [brief(response) for response in both] == [[(PUT, b"k", second)]] * 2


async def test_ids(endpoint: Endpoint) -> None:  # 52, 53, 54; etcd API: "Watch ids"
    watch = endpoint.watch()
    assert await watch.created(b"k", watch_id=1) == 1
    await watch.create(b"k", watch_id=1)
    refused = await watch.response()
    assert (refused.created, refused.canceled, refused.watch_id) == (True, True, -1)
    assert refused.cancel_reason == "mvcc: duplicate watch ID provided on the WatchStream"
    assert refused.header.revision == 1
    assert refused.compact_revision == 0
    assert await watch.created(b"k") == 0
    assert await watch.created(b"k") == 2
    await watch.cancel_watcher(2)
    assert (await watch.response()).canceled
    assert await watch.created(b"k") == 3
    assert await watch.created(b"k", watch_id=2) == 2
    assert await watch.created(b"k", watch_id=-7) == -7


@pytest.mark.parametrize(("key", "end"), [(b"b", b"b"), (b"b", b"a"), (b"", b"\x00")])
async def test_empty_ranges_are_refused(endpoint: Endpoint, key: bytes, end: bytes) -> None:
    watch = endpoint.watch()
    await watch.create(key, end)
    answer = await watch.response()
    if key:
        assert answer.cancel_reason == "mvcc: watcher range is empty"
        assert (answer.created, answer.canceled, answer.watch_id) == (True, True, -1)
    else:
        assert not answer.canceled
    assert await watch.created(b"k") == (0 if key else 1)


async def test_negative_start_is_refused(endpoint: Endpoint) -> None:
    watch = endpoint.watch()
    await watch.create(b"k", start_revision=-1)
    answer = await watch.response()
    assert answer.cancel_reason == "etcdserver: mvcc: required revision has been compacted"
    assert answer.watch_id == -1
    assert answer.compact_revision == 0


async def test_cancel_is_answered_once_and_final(endpoint: Endpoint) -> None:  # 55, 56
    watch = endpoint.watch()
    assert await watch.created(b"k") == 0
    await watch.cancel_watcher(99)
    await watch.cancel_watcher(0)
    answer = await watch.response()
    assert (answer.watch_id, answer.canceled, answer.created) == (0, True, False)
    assert not answer.cancel_reason
    assert answer.header.revision == 1
    await watch.cancel_watcher(0)
    await endpoint.put(b"k")
    assert await watch.created(b"k") == 1
    assert (await endpoint.put(b"k"), 1) == (3, 1)
    assert brief(await watch.response()) == [(PUT, b"k", 3)]


async def test_empty_and_unknown_requests_are_ignored(endpoint: Endpoint) -> None:
    watch = endpoint.watch()
    await watch.send(rpc_pb2.WatchRequest())
    assert await watch.created(b"k") == 0


async def test_the_whole_keyspace_has_two_names(endpoint: Endpoint) -> None:  # 78
    watch = endpoint.watch()
    await watch.created(b"", b"\x00")
    await watch.created(b"\x00", b"\x00")
    await endpoint.put(b"\x00")
    await endpoint.put(b"\xff\xff")
    got = [brief(await watch.response()) for _ in range(4)]
    assert got[0] == got[1] == [(PUT, b"\x00", 2)]
    assert got[2] == got[3] == [(PUT, b"\xff\xff", 3)]


async def test_half_close_keeps_the_stream(endpoint: Endpoint) -> None:  # 73
    watch = endpoint.watch()
    await watch.created(b"k")
    await watch.half_close()
    await endpoint.put(b"k")
    assert brief(await watch.response()) == [(PUT, b"k", 2)]
    watch.cancel()


async def test_a_closed_stream_leaves_no_watcher(endpoint: Endpoint) -> None:
    hub = endpoint.server._state.hub
    watch = endpoint.watch()
    for _ in range(3):
        await watch.created(b"a", b"b")
    assert hub.watcher_count == 3
    watch.cancel()
    other = endpoint.watch()
    while hub.watcher_count:
        await other.ask_progress()
        await asyncio.sleep(0)
    assert not len(hub._groups)


async def test_bytes_that_are_no_request_end_the_stream(endpoint: Endpoint) -> None:
    call = endpoint.channel.stream_stream(rpcs.WATCH_WATCH.path)()
    await call.write(b"\xff")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert caught.value.code() is grpc.StatusCode.INTERNAL


async def test_a_leader_that_is_there_satisfies_require_leader(endpoint: Endpoint) -> None:
    watch = endpoint.watch(metadata=(("hasleader", "true"),))
    assert await watch.created(b"k") == 0


# Events.


async def test_one_response_per_revision(endpoint: Endpoint) -> None:  # 62, 63, 125
    watch = endpoint.watch()
    await watch.created(b"a", b"z")
    put = [rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=key)) for key in (b"c", b"a", b"b")]
    await endpoint.call(rpcs.KV_TXN, rpc_pb2.TxnRequest(success=put))
    await endpoint.delete(b"a", b"z")
    txn, gone = await watch.response(), await watch.response()
    assert brief(txn) == [(PUT, b"c", 2), (PUT, b"a", 2), (PUT, b"b", 2)]
    assert txn.header.revision == 2
    assert brief(gone) == [(DELETE, b"a", 3), (DELETE, b"b", 3), (DELETE, b"c", 3)]
    assert all(not e.kv.create_revision and not e.kv.version for e in gone.events)  # 32


async def test_lease_events_are_deletes_in_key_order(endpoint: Endpoint) -> None:  # 62
    lease = await endpoint.grant(60)
    for key in (b"b", b"a", b"c"):
        await endpoint.put(key, lease=lease)
    watch = endpoint.watch()
    await watch.created(b"a", b"z")
    revision = await endpoint.revoke(lease)
    assert brief(await watch.response()) == [(DELETE, key, revision) for key in (b"a", b"b", b"c")]


async def test_empty_values_are_puts(endpoint: Endpoint) -> None:  # 61
    watch = endpoint.watch()
    await watch.created(b"k")
    await endpoint.put(b"k", b"")
    assert brief(await watch.response()) == [(PUT, b"k", 2)]


async def test_filters(endpoint: Endpoint) -> None:  # 65
    watch = endpoint.watch()
    await watch.created(b"k", filters=[NOPUT])
    await watch.created(b"k", filters=[NODELETE])
    await watch.created(b"k", filters=[NOPUT, NODELETE])
    await endpoint.put(b"k")
    await endpoint.delete(b"k")
    first, second = await watch.response(), await watch.response()
    assert (first.watch_id, brief(first)) == (1, [(PUT, b"k", 2)])
    assert (second.watch_id, brief(second)) == (0, [(DELETE, b"k", 3)])


async def test_previous_pairs(endpoint: Endpoint) -> None:  # 66, 67
    watch = endpoint.watch()
    await watch.created(b"k", prev_kv=True)
    await watch.created(b"k")
    await endpoint.put(b"k", b"1")
    await endpoint.put(b"k", b"2")
    await endpoint.delete(b"k")
    got = [await watch.response() for _ in range(6)]
    with_previous = [r.events[0] for r in got if r.watch_id == 0]
    without = [r.events[0] for r in got if r.watch_id == 1]
    assert not with_previous[0].HasField("prev_kv")
    assert [e.prev_kv.value for e in with_previous[1:]] == [b"1", b"2"]
    assert with_previous[2].prev_kv.mod_revision == 3
    assert not any(e.HasField("prev_kv") for e in without)
    again = endpoint.watch()
    await again.created(b"k", prev_kv=True, start_revision=2)
    replayed = list((await again.response()).events)
    assert replayed == with_previous


# History, compaction, the future.


async def test_history_comes_in_batches(endpoint: Endpoint) -> None:  # 64
    calls = [endpoint.put(b"k", b"%d" % n) for n in range(2500)]
    for start in range(0, 2500, 250):
        async with asyncio.TaskGroup() as group:
            for call in calls[start : start + 250]:
                group.create_task(call)
    watch = endpoint.watch()
    await watch.created(b"k", start_revision=2)
    seen: list[int] = []
    while len(seen) < 2500:
        response = await watch.response()
        assert len(response.events) <= 1000
        assert response.header.revision == 2501
        seen += [event.kv.mod_revision for event in response.events]
    assert seen == list(range(2, 2502))


async def test_watching_at_the_compact_revision_works(endpoint: Endpoint) -> None:  # 57, 58
    await endpoint.put(b"k", b"1")
    await endpoint.delete(b"k")
    await endpoint.put(b"k", b"2")
    await endpoint.compact(3)
    watch = endpoint.watch()
    await watch.created(b"k", start_revision=3)
    assert brief(await watch.response()) == [(DELETE, b"k", 3), (PUT, b"k", 4)]
    assert await watch.created(b"k", start_revision=2) == 1
    ended = await watch.response()
    assert (ended.watch_id, ended.canceled, ended.compact_revision) == (1, True, 3)
    assert ended.header.revision == 0
    assert ended.header.cluster_id
    assert not ended.cancel_reason
    assert not ended.created
    await watch.create(b"k", watch_id=1)  # the id is still taken
    assert (await watch.response()).canceled
    await watch.cancel_watcher(1)
    assert (await watch.response()).canceled
    assert await watch.created(b"k", watch_id=1) == 1


async def test_a_future_start_is_silent_until_reached(endpoint: Endpoint) -> None:  # 59, 71
    watch = endpoint.watch()
    await watch.created(b"k", start_revision=4)
    await watch.ask_progress()
    await endpoint.put(b"k")
    await endpoint.put(b"k")
    await endpoint.put(b"k")
    await endpoint.put(b"k")
    assert brief(await watch.response()) == [(PUT, b"k", 4)]
    assert brief(await watch.response()) == [(PUT, b"k", 5)]
    await watch.ask_progress()
    assert (await watch.response()).watch_id == -1
    await watch.created(b"k", start_revision=6)
    await endpoint.put(b"k")
    assert {(await watch.response()).watch_id for _ in range(2)} == {0, 1}


# Progress.


async def test_progress_on_demand(endpoint: Endpoint) -> None:  # 69, 70
    watch = endpoint.watch()
    await watch.ask_progress()  # no watchers: no answer
    await watch.created(b"k")
    await endpoint.put(b"other")
    await watch.ask_progress()
    answer = await watch.response()
    assert answer.watch_id == -1
    assert answer.header.revision == 2
    assert not answer.events
    assert not answer.created
    assert not answer.canceled
    await watch.created(b"k", start_revision=100)
    await watch.ask_progress()
    await watch.created(b"k")
    await watch.cancel_watcher(1)
    assert (await watch.response()).canceled
    await watch.ask_progress()
    assert (await watch.response()).watch_id == -1


async def test_periodic_progress_skips_the_tick_after_an_event(endpoint: Endpoint) -> None:  # 68
    watch = endpoint.watch()
    flagged = await watch.created(b"k", progress_notify=True)
    await watch.created(b"k")
    first = await watch.response()
    assert (first.watch_id, first.header.revision) == (flagged, 1)
    await endpoint.put(b"k")
    seen = [await watch.response() for _ in range(3)]
    assert {r.watch_id for r in seen[:2]} == {0, 1}
    assert all(r.events for r in seen[:2])
    assert (seen[2].watch_id, seen[2].header.revision, len(seen[2].events)) == (flagged, 2, 0)


# Size.


async def test_large_responses_are_fragmented_on_request() -> None:  # 72
    async with serving(max_request_bytes=4096) as endpoint:
        limit = 4096 + (512 << 10)
        watch = endpoint.watch()
        await watch.created(b"a", b"b", fragment=True)
        await watch.created(b"a", b"b")
        lease = await endpoint.grant(60)
        count = 400
        for n in range(count):
            await endpoint.put(b"a%04d" % n, b"x" * 2000, lease=lease)
        for _ in range(2 * count):
            await watch.response()
        await watch.created(b"a", b"b", fragment=True, prev_kv=True)
        await endpoint.revoke(lease)
        whole: dict[int, list[bytes]] = {0: [], 1: [], 2: []}
        parts = {0: 0, 1: 0, 2: 0}
        ended: set[int] = set()
        while len(ended) < 3:
            response = await watch.response()
            parts[response.watch_id] += 1
            whole[response.watch_id] += [event.kv.key for event in response.events]
            assert response.header.revision == count + 2
            if response.fragment:
                assert response.ByteSize() < limit
            else:
                ended.add(response.watch_id)
        assert parts[0] == parts[1] == 1
        assert parts[2] > 1
        assert whole[0] == whole[1] == whole[2] == [b"a%04d" % n for n in range(count)]


async def test_a_slow_reader_loses_nothing(endpoint: Endpoint) -> None:  # 75
    slow, quick = endpoint.watch(), endpoint.watch()
    await slow.created(b"k")
    await quick.created(b"k")
    count = 400
    for n in range(count):
        await endpoint.put(b"k", b"%d" % n + b"x" * 20_000)
    assert not any(watcher.caught_up for watcher in _watchers(endpoint))
    for watch in (quick, slow):
        seen: list[int] = []
        while len(seen) < count:
            response = await watch.response()
            revisions = [event.kv.mod_revision for event in response.events]
            assert response.header.revision >= revisions[-1]
            seen += revisions
        assert seen == list(range(2, count + 2))


async def test_a_stream_without_leader_is_refused(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch, plain = endpoint.watch(metadata=(("hasleader", "true"),)), endpoint.watch()
    await watch.created(b"k")
    await plain.created(b"k")
    monkeypatch.setattr(Replica, "leader_id", 0)
    refused = endpoint.watch(metadata=(("hasleader", "true"),))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await refused.receive()
    assert error_of(caught.value) == ("UNAVAILABLE", "etcdserver: no leader")
    endpoint.clock.jumped += 3.0  # three election timeouts later the open one ends too
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await watch.receive()
    assert error_of(caught.value) == ("UNAVAILABLE", "etcdserver: no leader")
    await endpoint.put(b"k")
    assert brief(await plain.response()) == [(PUT, b"k", 2)]  # 74
