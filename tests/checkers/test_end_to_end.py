"""A mixed load on real servers, recorded and judged by every checker; and a lie for each of them to find."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytest

import coord
from coord.testing.check import Append, Read, Step, decode_steps, encode_steps, judge
from coord.testing.check.cycles import LIST_APPEND
from coord.testing.history import (
    Call,
    Record,
    Return,
    Tenure,
    WatchOpened,
    WatchResponded,
    encode,
    read,
)
from coord.wire import rpc_pb2
from tests.checkers.mixed_load import STRANGERS, MixedLoad
from tests.checkers.stories import S, edited, with_return
from tests.support.servers import ServerProcess, coord_server_process, real_etcd

pytestmark = pytest.mark.processes

Running = AbstractContextManager[ServerProcess]
SERVERS: dict[str, Callable[[Path], Running]] = {"coord": coord_server_process, "etcd": real_etcd}


async def run(endpoint: str) -> list[Record]:
    async with coord.connect(endpoint) as client:
        return await MixedLoad(client, seed=7).run()


@pytest.fixture(
    scope="module", params=["coord", pytest.param("etcd", marks=pytest.mark.etcd)]
)  # fmt: skip
def history(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> list[Record]:
    directory: Path = tmp_path_factory.mktemp(str(request.param))
    with SERVERS[str(request.param)](directory) as server:
        return asyncio.run(run(server.endpoint))


def test_all_checkers_accept_what_happened(history: list[Record]) -> None:
    # As a file, as a user would keep it.
    records = list(read([encode(record) for record in history]))
    assert records == history
    verdicts = judge(records, strangers=STRANGERS)
    assert all(verdict.ok for verdict in verdicts.values()), "\n".join(map(str, verdicts.values()))
    # Nobody was idle.
    checked = {name: verdict.checked for name, verdict in verdicts.items()}
    assert checked["ledger"] > 150
    assert checked["order"] > 400
    assert checked["linearizability"] > 400
    assert checked["cycles"] == 90
    assert checked["watch"] == 2
    assert checked["lease"] == 5
    assert checked["lock"] == 15
    assert checked["election"] >= 6 + 4


# Lies: each is found by the checker whose business it is.


def witnessed(records: list[Record], name: str) -> int:
    """The place of a response with a put in the middle of a watcher's life."""
    places = [
        place
        for place, r in enumerate(records)
        if isinstance(r, WatchResponded) and r.watcher == name
        and len(r.events) == 1 and not r.events[0].is_delete
        and r.events[0].pair.key.startswith("kv/")
    ]  # fmt: skip
    return places[len(places) // 2]


def watchers(records: list[Record]) -> list[str]:
    return [record.watcher for record in records if isinstance(record, WatchOpened)]


def a_write_becomes_another(records: list[Record]) -> list[Record]:
    place = witnessed(records, watchers(records)[0])
    response = records[place]
    assert isinstance(response, WatchResponded)
    (event,) = response.events
    forged = replace(event, pair=replace(event.pair, value="forged"))
    return [*records[:place], replace(response, events=(forged,)), *records[place + 1 :]]


def a_response_is_missing(records: list[Record]) -> list[Record]:
    place = witnessed(records, watchers(records)[1])
    return [*records[:place], *records[place + 1 :]]


def shows_a_pair(call: Call, ret: Return) -> bool:
    request = rpc_pb2.RangeRequest.FromString(call.request) if call.op == "Range" else None
    if request is None or request.serializable or not request.key.startswith(b"kv/"):
        return False
    return len(rpc_pb2.RangeResponse.FromString(ret.response).kvs) == 1 and not request.limit


def forge(response: rpc_pb2.RangeResponse) -> None:
    response.kvs[0].value = b"forged"


def a_read_shows_what_never_was(records: list[Record]) -> list[Record]:
    return with_return(records, shows_a_pair, edited(rpc_pb2.RangeResponse, forge))


def shift(response: rpc_pb2.PutResponse) -> None:
    response.header.revision += 1


def a_put_is_told_another_revision(records: list[Record]) -> list[Record]:
    return with_return(
        records, lambda call, _: call.op == "Put", edited(rpc_pb2.PutResponse, shift)
    )


def reads_a_list(call: Call, ret: Return) -> bool:
    if call.op != LIST_APPEND or ret.status != "ok":
        return False
    steps = decode_steps(ret.response)
    others = not any(isinstance(step, Append) for step in steps)
    return others and any(isinstance(step, Read) and len(step.elements or ()) > 3 for step in steps)


def without_the_last(ret: Return) -> Return:
    steps: list[Step] = []
    for step in decode_steps(ret.response):
        is_long = isinstance(step, Read) and len(step.elements or ()) > 3
        if isinstance(step, Read) and step.elements and is_long:
            steps.append(Read(step.key, step.elements[:-2]))
        else:
            steps.append(step)
    return replace(ret, response=encode_steps(steps))


def a_list_is_read_as_it_was_before(records: list[Record]) -> list[Record]:
    return with_return(records, reads_a_list, without_the_last)


def renews_the_short_lease(records: list[Record]) -> Callable[[Call, Return], bool]:
    return lambda call, _: call.op == "LeaseKeepAlive" and call.client == "expiry"


def promise_more(response: rpc_pb2.LeaseKeepAliveResponse) -> None:
    response.TTL = 600


def a_lease_was_promised_for_longer(records: list[Record]) -> list[Record]:
    def edit(ret: Return) -> Return:
        response = rpc_pb2.LeaseKeepAliveResponse.FromString(ret.response)
        promise_more(response)
        return replace(ret, response=response.SerializeToString())

    return with_return(records, renews_the_short_lease(records), edit)


def a_holder_leaves_late(records: list[Record]) -> list[Record]:
    (place, *_) = [
        n
        for n, r in enumerate(records)
        if isinstance(r, Tenure) and r.kind == "lock" and r.phase == "leave"
    ]
    leave = records[place]
    assert isinstance(leave, Tenure)
    late = replace(leave, ts=leave.ts + 60 * S, until=leave.ts + 61 * S)
    return [*records[:place], late, *records[place + 1 :]]


def a_leader_is_shown_again(records: list[Record]) -> list[Record]:
    shown = [r for r in records if isinstance(r, Tenure) and r.phase == "seen" and r.token]
    return [*records, replace(shown[0], ts=shown[-1].ts + 1)]


@pytest.mark.parametrize(
    ("lie", "checker"),
    [
        (a_write_becomes_another, "ledger"),
        (a_put_is_told_another_revision, "order"),
        (a_read_shows_what_never_was, "order"),
        (a_read_shows_what_never_was, "linearizability"),
        (a_list_is_read_as_it_was_before, "cycles"),
        (a_response_is_missing, "watch"),
        (a_lease_was_promised_for_longer, "lease"),
        (a_holder_leaves_late, "lock"),
        (a_leader_is_shown_again, "election"),
    ],
)
def test_each_checker_finds_its_lie(
    history: list[Record], lie: Callable[[list[Record]], list[Record]], checker: str
) -> None:
    verdict = judge(lie(history), strangers=STRANGERS)[checker]
    assert verdict.violations, str(verdict)
