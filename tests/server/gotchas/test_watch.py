"""Gotchas 51-79: watching. What watch/test_watch_service.py proves already is not repeated."""

from __future__ import annotations

from typing import Any

from coord.wire import methods as rpcs
from coord.wire import rpc_pb2
from tests.server.endpoint import Endpoint, WatchCall, serving
from tests.server.gotchas.place import (
    DELETE,
    PUT,
    brief,
    delete_op,
    newer_than_3_5_1,
    put,
    put_op,
    together,
    txn,
)

NOPUT = rpc_pb2.WatchCreateRequest.NOPUT


async def write(endpoint: Endpoint, key: bytes, count: int) -> None:
    """Put a key so many times, quickly."""
    for start in range(0, count, 250):
        here = range(start, min(count, start + 250))
        await together(*(endpoint.put(key, b"%d" % n) for n in here))


async def response_of(watch: WatchCall, watch_id: int) -> rpc_pb2.WatchResponse:
    """Return the next response of one watcher."""
    while True:
        response = await watch.response()
        if response.watch_id == watch_id:
            return response


async def test_g051_created_precedes_history(endpoint: Endpoint) -> None:
    for _ in range(3):
        await endpoint.put(b"k")
    watch = endpoint.watch()
    for number in range(5):
        await watch.create(b"k", start_revision=2)
        started = False
        while not started:
            answer = await watch.response()
            started = answer.watch_id == number
            if started:
                assert answer.created
                assert not answer.events


async def test_g052_the_first_id_of_every_stream_is_0(endpoint: Endpoint) -> None:
    for _ in range(3):
        watch = endpoint.watch()
        assert await watch.created(b"k") == 0
        await watch.cancel_watcher(0)
        answer = await watch.response()
        assert (answer.watch_id, answer.canceled) == (0, True)
        assert await watch.created(b"k") == 1


async def test_g053_a_refused_create_names_nobody(endpoint: Endpoint) -> None:
    watch = endpoint.watch()
    assert await watch.created(b"k") == 0
    await watch.create(b"b", b"a")
    refusal = await watch.response()
    assert (refusal.created, refusal.canceled, refusal.watch_id) == (True, True, -1)
    await endpoint.put(b"k")
    alive = await watch.response()
    assert (alive.watch_id, brief(alive)) == (0, [(PUT, b"k", 2)])


@newer_than_3_5_1
async def test_g054_a_stream_survives_every_refusal(endpoint: Endpoint) -> None:
    watch = endpoint.watch()
    assert await watch.created(b"k", watch_id=5) == 5
    refusals: tuple[tuple[dict[str, Any], str], ...] = (
        ({"watch_id": 5}, "mvcc: duplicate watch ID provided on the WatchStream"),
        ({"end": b"a"}, "mvcc: watcher range is empty"),
        ({"start_revision": -1}, "etcdserver: mvcc: required revision has been compacted"),
    )
    for options, reason in refusals:
        await watch.create(b"k", **options)
        assert (await watch.response()).cancel_reason == reason
    await endpoint.put(b"k")
    assert (await watch.response()).watch_id == 5


async def test_g055_nobody_answers_for_an_unknown_id(endpoint: Endpoint) -> None:
    watch = endpoint.watch()
    assert await watch.created(b"k") == 0
    for unknown in (1, 99, -1, 2**62):
        await watch.cancel_watcher(unknown)
    assert await watch.created(b"k") == 1  # the very next answer


async def test_g056_nothing_follows_a_cancellation(endpoint: Endpoint) -> None:
    await write(endpoint, b"k", 1500)
    watch = endpoint.watch()
    # One has caught up; each of the others is cancelled in the midst of its history.
    live = await watch.created(b"k")
    for _ in range(5):
        await watch.create(b"k", start_revision=2)
        while not (answer := await watch.response()).created:
            pass
        await watch.cancel_watcher(answer.watch_id)
        ended = await response_of(watch, answer.watch_id)
        while not ended.canceled:
            ended = await response_of(watch, answer.watch_id)
    await watch.cancel_watcher(live)
    assert (await watch.response()).canceled
    await endpoint.put(b"k")
    await watch.create(b"k", start_revision=1502)
    answers = [await watch.response() for _ in range(2)]
    assert {answer.watch_id for answer in answers} == {6}
    assert brief(answers[1]) == [(PUT, b"k", 1502)]


async def test_g057_compaction_ends_a_watcher_that_was_created(endpoint: Endpoint) -> None:
    for _ in range(4):
        await endpoint.put(b"k")
    await endpoint.compact(4)
    watch = endpoint.watch()
    await watch.create(b"k", start_revision=2)
    created, ended = await watch.response(), await watch.response()
    assert created.created
    assert not created.canceled
    assert created.header.revision == 5
    assert ended == rpc_pb2.WatchResponse(
        header=rpc_pb2.ResponseHeader(
            cluster_id=created.header.cluster_id,
            member_id=created.header.member_id,
            raft_term=created.header.raft_term,
        ),
        canceled=True,
        compact_revision=4,
    )


@newer_than_3_5_1
async def test_g058_a_tombstone_at_the_compact_revision_is_kept(endpoint: Endpoint) -> None:
    await endpoint.put(b"k")
    await endpoint.delete(b"k")  # 3
    await endpoint.put(b"other")
    request = rpc_pb2.CompactionRequest(revision=3, physical=True)
    await endpoint.call(rpcs.KV_COMPACT, request)
    watch = endpoint.watch()
    await watch.created(b"k", start_revision=3)
    assert brief(await watch.response()) == [(DELETE, b"k", 3)]


async def test_g058_watching_at_the_compact_revision(endpoint: Endpoint) -> None:
    for n in range(4):
        await endpoint.put(b"k", b"%d" % n)
    request = rpc_pb2.CompactionRequest(revision=4, physical=True)
    await endpoint.call(rpcs.KV_COMPACT, request)
    watch = endpoint.watch()
    await watch.created(b"k", start_revision=4)
    assert brief(await watch.response()) == [(PUT, b"k", 4), (PUT, b"k", 5)]


async def test_g059_one_past_the_present_is_now(endpoint: Endpoint) -> None:
    await endpoint.put(b"k")
    watch = endpoint.watch()
    await watch.created(b"k", start_revision=3)
    await endpoint.put(b"k")
    assert brief(await watch.response()) == [(PUT, b"k", 3)]


@newer_than_3_5_1
async def test_g059_the_far_future_is_silent_and_blocks_progress(endpoint: Endpoint) -> None:
    watch = endpoint.watch()
    assert await watch.created(b"k") == 0
    assert await watch.created(b"k", start_revision=5) == 1
    for _ in range(3):  # 2 to 4
        await endpoint.put(b"k")
        await watch.ask_progress()
        answer = await watch.response()
        assert (answer.watch_id, len(answer.events)) == (0, 1)
    await endpoint.put(b"k")
    # When it is reached its watcher may come a moment later than the others.
    told: dict[int, list[Any]] = {}
    while len(told) < 2:
        answer = await watch.response()
        told[answer.watch_id] = brief(answer)
    assert told == {0: [(PUT, b"k", 5)], 1: [(PUT, b"k", 5)]}
    await watch.ask_progress()
    assert (await watch.response()).watch_id == -1


async def test_g060_a_new_watch_never_tells_the_present(endpoint: Endpoint) -> None:
    for number in range(20):
        revision = await endpoint.put(b"k")
        watch = endpoint.watch()
        await watch.create(b"k")
        created = await watch.response()
        assert created.header.revision == revision
        following = await endpoint.put(b"k")
        assert brief(await watch.response()) == [(PUT, b"k", following)], number
        watch.cancel()


async def test_g062_expiry_is_one_response_in_the_order_of_keys(ours: Endpoint) -> None:
    lease = await ours.grant(10)
    for key in (b"c", b"a", b"b"):
        await put(ours, key, lease=lease)
    watch = ours.watch()
    await watch.created(b"a", b"z")
    await watch.created(b"b")
    ours.clock.jumped += 12
    told = {}
    for _ in range(2):
        answer = await watch.response()
        told[answer.watch_id] = brief(answer)
    assert told == {
        0: [(DELETE, b"a", 5), (DELETE, b"b", 5), (DELETE, b"c", 5)],
        1: [(DELETE, b"b", 5)],
    }


async def test_g063_events_of_a_txn_come_in_its_order(endpoint: Endpoint) -> None:
    await endpoint.put(b"m")
    watch = endpoint.watch()
    await watch.created(b"a", b"z")
    await txn(endpoint, put_op(b"z0"), put_op(b"c"), delete_op(b"m"), put_op(b"a"), put_op(b"b"))
    first = brief(await watch.response())
    assert first == [(PUT, b"c", 3), (DELETE, b"m", 3), (PUT, b"a", 3), (PUT, b"b", 3)]
    late = endpoint.watch()
    await late.created(b"a", b"z", start_revision=3)
    assert brief(await late.response()) == first


async def test_g064_history_comes_in_batches_with_the_present_revision(endpoint: Endpoint) -> None:
    await write(endpoint, b"k", 2300)
    watch = endpoint.watch()
    await watch.created(b"k", start_revision=2)
    sizes: list[int] = []
    last = 1
    while last < 2301:
        answer = await watch.response()
        revisions = [event.kv.mod_revision for event in answer.events]
        assert revisions == list(range(last + 1, last + 1 + len(revisions)))
        assert answer.header.revision == 2301
        sizes.append(len(revisions))
        last = revisions[-1]
    assert max(sizes) <= 1000


async def test_g065_what_is_filtered_out_makes_no_response(endpoint: Endpoint) -> None:
    watch = endpoint.watch()
    await watch.created(b"k", filters=[NOPUT])
    for _ in range(3):
        await endpoint.put(b"k")
    await endpoint.delete(b"k")
    answer = await watch.response()
    assert (brief(answer), answer.header.revision) == ([(DELETE, b"k", 5)], 5)
    late = endpoint.watch()
    await late.created(b"k", filters=[NOPUT], start_revision=2)
    assert brief(await late.response()) == [(DELETE, b"k", 5)]


async def test_g066_a_previous_pair_may_be_compacted(endpoint: Endpoint) -> None:
    for n in range(4):
        await endpoint.put(b"k", b"%d" % n)
    await endpoint.compact(4)
    watch = endpoint.watch()
    await watch.created(b"k", prev_kv=True, start_revision=4)
    events: list[Any] = []
    while len(events) < 2:
        events += (await watch.response()).events
    assert [event.kv.mod_revision for event in events] == [4, 5]
    assert not events[0].HasField("prev_kv")
    assert (events[1].prev_kv.value, events[1].prev_kv.mod_revision) == (b"2", 4)


@newer_than_3_5_1
async def test_g069_nobody_answers_for_progress_while_one_lags(endpoint: Endpoint) -> None:
    watch = endpoint.watch()
    assert await watch.created(b"k", start_revision=4) == 0
    assert await watch.created(b"k") == 1
    for _ in range(3):
        await watch.ask_progress()
    await endpoint.put(b"k")  # 2
    await endpoint.put(b"k")  # 3
    await endpoint.put(b"k")  # 4: everybody gets it, and no progress was ever answered
    told: list[tuple[int, int]] = []
    while len(told) < 4:
        answer = await watch.response()
        assert answer.events
        told += [(answer.watch_id, event.kv.mod_revision) for event in answer.events]
    assert sorted(told) == [(0, 4), (1, 2), (1, 3), (1, 4)]
    await watch.ask_progress()
    assert (await watch.response()).watch_id == -1


@newer_than_3_5_1
async def test_g070_one_answer_is_for_all_watchers(endpoint: Endpoint) -> None:
    watch = endpoint.watch()
    assert await watch.created(b"a") == 0
    assert await watch.created(b"b", start_revision=1) == 1
    await endpoint.put(b"b")
    assert brief(await watch.response()) == [(PUT, b"b", 2)]
    await endpoint.put(b"other")
    await watch.ask_progress()
    answer = await watch.response()
    assert (answer.watch_id, answer.header.revision, list(answer.events)) == (-1, 3, [])
    await watch.cancel_watcher(0)
    assert (await watch.response()).canceled
    await watch.cancel_watcher(1)
    assert (await watch.response()).canceled
    await watch.ask_progress()  # no watchers, no answer
    assert await watch.created(b"a") == 2


async def test_g071_progress_needs_no_event_but_a_start_that_has_come() -> None:
    async with serving(watch_progress_notify_interval_s=0.1) as endpoint:
        watch = endpoint.watch()
        early = await watch.created(b"k", progress_notify=True, start_revision=4)
        now = await watch.created(b"k", progress_notify=True)
        for _ in range(3):
            answer = await watch.response()
            assert (answer.watch_id, answer.header.revision, len(answer.events)) == (now, 1, 0)
        for _ in range(3):
            await endpoint.put(b"other")
        seen: set[int] = set()
        while seen != {early, now}:
            answer = await watch.response()
            assert answer.watch_id == now or answer.header.revision >= 4
            if answer.header.revision == 4:
                seen.add(answer.watch_id)


@newer_than_3_5_1
async def test_g071_even_the_next_revision_has_to_come_first(endpoint: Endpoint) -> None:
    watch = endpoint.watch()
    assert await watch.created(b"k", start_revision=2) == 0
    await watch.ask_progress()  # at revision 1: no answer
    await endpoint.put(b"other")
    await watch.ask_progress()
    answer = await watch.response()
    assert (answer.watch_id, answer.header.revision) == (-1, 2)


async def test_g072_fragments_are_cut_between_any_events() -> None:
    # Each revision is larger than half a fragment: parts begin and end inside of revisions.
    async with serving(max_request_bytes=256 << 10) as endpoint:
        width, size, rounds = 5, 40 << 10, 8
        for n in range(rounds):
            await txn(
                endpoint, *(put_op(b"k%d" % k, b"%d" % n + bytes(size)) for k in range(width))
            )
        watch = endpoint.watch()
        await watch.created(b"k", b"l", fragment=True, prev_kv=True, start_revision=2)
        keys: list[tuple[int, bytes]] = []
        parts, cut_inside = 0, False
        while len(keys) < rounds * width:
            answer = await watch.response()
            assert answer.watch_id == 0
            events = [(event.kv.mod_revision, event.kv.key) for event in answer.events]
            assert events
            keys += events
            parts += answer.fragment
            cut_inside |= answer.fragment and events[-1][1] != b"k%d" % (width - 1)
            assert answer.ByteSize() < (768 << 10)
        assert keys == [(n + 2, b"k%d" % k) for n in range(rounds) for k in range(width)]
        assert parts
        assert cut_inside
        await endpoint.put(b"k0")
        assert not (await watch.response()).fragment


async def test_g073_half_closing_ends_nothing(endpoint: Endpoint) -> None:
    watch = endpoint.watch()
    await watch.created(b"k")
    await watch.half_close()
    for n in range(3):
        await endpoint.put(b"k")
        assert brief(await watch.response()) == [(PUT, b"k", n + 2)]


async def test_g075_a_reader_that_lags_behind_a_compaction_is_told(endpoint: Endpoint) -> None:
    # Nothing is read until the buffers on the way and in the server are full.
    watch = endpoint.watch()
    await watch.created(b"k")
    value = bytes(200_000)
    for _ in range(150):
        await endpoint.put(b"k", value)
    await endpoint.compact(151)
    seen: list[int] = []
    while True:
        answer = await watch.response()
        if answer.canceled:
            assert answer.compact_revision == 151
            assert not answer.events
            break
        seen += [event.kv.mod_revision for event in answer.events]
        if seen[-1] == 151:
            break
    assert seen == list(range(2, 2 + len(seen)))


async def test_g077_resuming_after_the_last_event_doubles_nothing(endpoint: Endpoint) -> None:
    seen: list[int] = []
    start = 0
    for _ in range(6):
        watch = endpoint.watch()
        await watch.created(b"k", start_revision=start)
        for _ in range(4):
            await endpoint.put(b"k")
        # The connection is lost after some of them.
        want = len(seen) + 3
        while len(seen) < want:
            seen += [event.kv.mod_revision for event in (await watch.response()).events]
        watch.cancel()
        start = seen[-1] + 1
    assert seen == list(range(2, seen[-1] + 1))


async def test_g077_progress_is_a_place_to_resume_from(endpoint: Endpoint) -> None:
    await endpoint.put(b"k")
    watch = endpoint.watch()
    await watch.created(b"k", start_revision=2)
    assert brief(await watch.response()) == [(PUT, b"k", 2)]
    await endpoint.put(b"other")
    await watch.ask_progress()
    reached = (await watch.response()).header.revision
    watch.cancel()
    again = endpoint.watch()
    await again.created(b"k", start_revision=reached + 1)
    await endpoint.put(b"k")
    assert brief(await again.response()) == [(PUT, b"k", reached + 1)]


async def test_g078_two_names_of_the_whole_key_space(endpoint: Endpoint) -> None:
    watch = endpoint.watch()
    await watch.created(b"", b"\x00")
    await watch.created(b"\x00", b"\x00")
    for n, key in enumerate((b"\x00", b"k", b"\xff\xff")):
        await endpoint.put(key)
        told = [await watch.response() for _ in range(2)]
        assert {answer.watch_id for answer in told} == {0, 1}
        assert brief(told[0]) == brief(told[1]) == [(PUT, key, n + 2)]
