"""Two servers that are asked the same: ours and etcd."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import grpc

from coord.wire import methods as rpcs
from coord.wire import rpc_pb2
from tests.compat.answers import Answer, Step, View
from tests.compat.carriers import Call, CallFailed, Carrier, GrpcioCarrier, NativeCarrier
from tests.support.servers import coord_server_process, real_etcd

_TIMEOUT_S = 30

Stream: TypeAlias = "grpc.StreamStreamMultiCallable[bytes, bytes]"
CarrierName: TypeAlias = Literal["grpcio", "native"]
_CHANNEL_OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
_EVERYTHING = (b"\x00", b"\x00")


@dataclass(slots=True)
class Side:
    """One of the two servers."""

    name: str
    channel: grpc.Channel
    carrier: Carrier
    view: View

    def start(self, step: Step) -> Call:
        """Send a request; ``finish`` takes what this returns."""
        return self.carrier.start(step.rpc, self.view.encode(step))

    def finish(self, step: Step, call: Call) -> Answer:
        """Wait for the answer, and make it comparable."""
        meanwhile = tuple(self._meanwhile(step, call)) if step.meanwhile else ()
        try:
            raw = call.result()
        except CallFailed as error:
            return Answer(error.code, error.text, meanwhile=meanwhile)
        return self.view.decode(step, raw, meanwhile)

    def ask(self, step: Step) -> Answer:
        """Send a request, and wait for its answer."""
        return self.finish(step, self.start(step))

    def _meanwhile(self, step: Step, call: Call) -> Iterator[Answer]:
        entered = Step(rpcs.KV_RANGE, rpc_pb2.RangeRequest(key=step.waits_as, count_only=True))
        give_up = time.monotonic() + _TIMEOUT_S
        while not call.done():
            answer = self.ask(entered).message
            assert isinstance(answer, rpc_pb2.RangeResponse)
            if answer.count:
                break
            assert time.monotonic() < give_up, f"{self.name} never stood in line: {step}"
        for other in step.meanwhile:
            yield self.ask(other)


@dataclass(slots=True)
class Pair:
    """Our server and etcd, fed identically."""

    ours: Side
    theirs: Side
    version: str

    def ask(self, step: Step) -> tuple[Answer, Answer]:
        """Send a request to both, and return both answers."""
        calls = [(side, side.start(step)) for side in (self.ours, self.theirs)]
        ours, theirs = (side.finish(step, call) for side, call in calls)
        return ours, theirs

    def reset(self, *, forget: bool = False) -> int:
        """Delete every key, lease and alarm on both; return the revision, which must be the same.

        ``forget`` drops the history too.
        """
        for side in (self.ours, self.theirs):
            _disarm(side)
            key, end = _EVERYTHING
            everything = rpc_pb2.DeleteRangeRequest(key=key, range_end=end)
            assert not side.ask(Step(rpcs.KV_DELETE_RANGE, everything)).code
            side.view.turn_over()
            raw = side.start(Step(rpcs.LEASE_LEASES, rpc_pb2.LeaseLeasesRequest())).result()
            for status in rpc_pb2.LeaseLeasesResponse.FromString(raw).leases:
                gone = rpc_pb2.LeaseRevokeRequest(ID=status.ID)
                side.start(Step(rpcs.LEASE_REVOKE, gone)).result()
        key, end = _EVERYTHING
        ours, theirs = self.ask(Step(rpcs.KV_RANGE, rpc_pb2.RangeRequest(key=key, range_end=end)))
        assert ours == theirs
        assert isinstance(ours.message, rpc_pb2.RangeResponse)
        revision = ours.message.header.revision
        if forget:
            compaction = rpc_pb2.CompactionRequest(revision=revision, physical=True)
            ours, theirs = self.ask(Step(rpcs.KV_COMPACT, compaction))
            # Refused, if nothing has happened since the last time.
            assert ours == theirs
        return revision


def _disarm(side: Side) -> None:
    """A script that failed may have left an alarm."""
    answer = side.ask(Step(rpcs.MAINTENANCE_ALARM, rpc_pb2.AlarmRequest())).message
    assert isinstance(answer, rpc_pb2.AlarmResponse)
    for alarm in answer.alarms:
        request = rpc_pb2.AlarmRequest(
            action=rpc_pb2.AlarmRequest.DEACTIVATE, memberID=alarm.memberID, alarm=alarm.alarm
        )
        side.ask(Step(rpcs.MAINTENANCE_ALARM, request))


@contextlib.contextmanager
def pair_of_servers(
    directory: Path, *flags: str, version: str = "3.5.1", carrier: CarrierName = "grpcio"
) -> Generator[Pair]:
    """Start both; ``flags`` are for both."""
    # Without fsync: what is compared is the answers, and etcd's disk would take most of the time.
    quick = ("--unsafe-no-fsync",) if version >= "3.5" else ()
    with contextlib.ExitStack() as stack:

        def side(name: str, endpoint: str) -> Side:
            channel = stack.enter_context(grpc.insecure_channel(endpoint, options=_CHANNEL_OPTIONS))
            made: Carrier = (
                GrpcioCarrier(channel, _TIMEOUT_S)
                if carrier == "grpcio"
                else stack.enter_context(NativeCarrier(endpoint, _TIMEOUT_S))
            )
            return Side(name, channel, made, View(name))

        ours = stack.enter_context(coord_server_process(directory / "ours", *flags))
        theirs = stack.enter_context(real_etcd(directory / "etcd", *flags, *quick, version=version))
        yield Pair(side("ours", ours.endpoint), side("etcd", theirs.endpoint), version)
