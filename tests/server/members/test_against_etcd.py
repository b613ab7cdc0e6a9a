# ruff: noqa: ANN401 - the messages of any call
"""Sequences of member operations, answered as etcd answers them: code, text and members.

etcd runs alone and is asked over gRPC. Our side is the service, the table and the applied state, over a
replica that commits at once. Ids are made of the second and cannot agree, so they are compared by when
they were added.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeAlias, cast

import grpc
import pytest
from google.protobuf.message import Message

from coord.rpc.status import RpcError
from coord.wire import methods as rpcs
from coord.wire import rpc_pb2 as pb
from tests.server.members.scripts import OWN, STRANGER, Act, Script
from tests.server.members.site import Site
from tests.support.servers import real_etcd

pytestmark = [pytest.mark.etcd, pytest.mark.processes]

SCRIPTS = 80
STRANGERS_ID = 0xBAD
_ATTEMPTS = 5
_DROPPED_S = 2.0

Outcome: TypeAlias = "tuple[int, str, Any]"
Call: TypeAlias = "Callable[[Act, int, list[str]], Awaitable[Any]]"


class Side:
    """One of the two, with the ids that it gave."""

    def __init__(self, own: pb.Member, call: Call) -> None:
        self._call = call
        self._own_url = own.peerURLs[0]
        self._own_id = own.ID
        self.ids: dict[int, int] = {}

    async def run(self, act: Act) -> Outcome:
        if act.slot == STRANGER:
            number = STRANGERS_ID
        else:
            # A member that could not be added is asked for by an id that nobody has.
            number = {0: self._own_id, **self.ids}.get(act.slot, STRANGERS_ID + act.slot)
        urls = [self._own_url if url == OWN else url for url in act.urls]
        try:
            answer = await self._call(act, number, urls)
        except RpcError as error:
            return int(error.code), error.message, None
        except grpc.RpcError as error:
            return error.code().value[0], error.details() or "", None
        if act.name == "add":
            self.ids[act.slot] = answer.member.ID
        assert answer.header.revision == 0
        self._own_url = next(m.peerURLs[0] for m in answer.members if self._own_id == m.ID)
        return 0, "", sorted(self._shown(member) for member in answer.members)

    def _shown(self, member: pb.Member) -> tuple[object, ...]:
        slots = {number: slot for slot, number in self.ids.items()} | {self._own_id: 0}
        return slots[member.ID], member.name, list(member.peerURLs), member.isLearner

    async def clear(self) -> None:
        """Remove what a script has left."""
        for slot in sorted(self.ids):
            await self.run(Act(name="remove", slot=slot))
        self.ids.clear()


def our_side(own: pb.Member, *, strict: bool) -> Side:
    site = Site(own, own=own.ID, leader=own.ID, strict_reconfig_check=strict)

    async def call(act: Act, number: int, urls: list[str]) -> Any:
        if act.name == "add":
            return await site.add(*urls, learner=act.learner)
        if act.name == "remove":
            return await site.remove(number)
        if act.name == "update":
            return await site.update(number, *urls)
        if act.name == "promote":
            return await site.promote(number)
        return pb.MemberListResponse(members=site.context.members)

    return Side(own, call)


def etcds_side(own: pb.Member, channel: grpc.Channel) -> Side:
    async def call(act: Act, number: int, urls: list[str]) -> Any:
        if act.name == "add":
            return ask(
                channel,
                rpcs.CLUSTER_MEMBER_ADD,
                pb.MemberAddRequest(peerURLs=urls, isLearner=act.learner),
            )
        if act.name == "remove":
            return ask(channel, rpcs.CLUSTER_MEMBER_REMOVE, pb.MemberRemoveRequest(ID=number))
        if act.name == "update":
            request = pb.MemberUpdateRequest(ID=number, peerURLs=urls)
            return ask(channel, rpcs.CLUSTER_MEMBER_UPDATE, request)
        if act.name == "promote":
            return ask(channel, rpcs.CLUSTER_MEMBER_PROMOTE, pb.MemberPromoteRequest(ID=number))
        return ask(
            channel,
            rpcs.CLUSTER_MEMBER_LIST,
            pb.MemberListRequest(linearizable=act.linearizable),
        )

    return Side(own, call)


def _encode(message: Message) -> bytes:
    return message.SerializeToString()


def ask(channel: grpc.Channel, rpc: Any, request: Any) -> Any:
    unary: Any = cast("Any", channel).unary_unary(
        rpc.path,
        request_serializer=_encode,
        response_deserializer=rpc.response.FromString,
    )
    # etcd turns a change into nothing if raft has not heard yet that the one before is applied, and lets
    # the caller wait for ever. Such a change has not happened, so it is asked for again.
    for _ in range(_ATTEMPTS):
        try:
            return unary(request, timeout=_DROPPED_S)
        except grpc.RpcError as error:
            # Whichever of the two notices the deadline first.
            if (
                error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED
                and error.details() != "etcdserver: request timed out"
            ):
                raise
    raise AssertionError(f"etcd does not answer {rpc.path}")


@pytest.mark.parametrize("strict", [True, False])
async def test_generated_scripts_have_the_same_answers(tmp_path: Path, strict: bool) -> None:
    flags = (f"--strict-reconfig-check={'true' if strict else 'false'}", "--unsafe-no-fsync")
    with (
        real_etcd(tmp_path, *flags) as server,
        grpc.insecure_channel(server.endpoint) as channel,
    ):
        listed = ask(channel, rpcs.CLUSTER_MEMBER_LIST, pb.MemberListRequest())
        own = listed.members[0]
        ours, theirs = our_side(own, strict=strict), etcds_side(own, channel)
        seen: set[tuple[str, str]] = set()
        for seed in range(SCRIPTS):
            script = Script(seed, strict=strict)
            for number, act in enumerate(script.acts):
                one, other = await ours.run(act), await theirs.run(act)
                assert one == other, f"seed {seed}, act {number} of {script.acts}"
                seen.add((act.name, one[1]))
            await ours.clear()
            await theirs.clear()
    # The scripts get everywhere.
    assert {text for name, text in seen if name == "add"} == {
        "",
        "etcdserver: given member URLs are invalid",
        "etcdserver: Peer URLs already exists",
        "etcdserver: too many learner members in cluster",
    }
    assert {text for name, text in seen if name == "promote"} == {
        "etcdserver: member not found",
        "etcdserver: can only promote a learner member",
        "etcdserver: can only promote a learner member which is in sync with leader",
    }
    assert ("update", "etcdserver: Peer URLs already exists") in seen
    assert ("remove", "etcdserver: member not found") in seen
