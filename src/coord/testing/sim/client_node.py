"""A client program: a machine that works through its script, one operation after the other.

It speaks the store's own messages over a carrier, so that the history holds exactly what was asked and
answered. An outcome is ``ok``, ``fail`` (certainly not applied) or ``info`` (nobody knows); after the
last the program goes on, as one does.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from coord.rpc.status import RpcError, StatusCode
from coord.runtime import Env, TcpAddress
from coord.target import Endpoint
from coord.testing.sim.direct import DirectTransport
from coord.testing.sim.env import NodeOffload
from coord.testing.sim.machine import Machine
from coord.testing.sim.server_node import CLIENT_PORT, DIRECT_PORT
from coord.transport.native import NativeTransport
from coord.wire import methods as rpcs
from coord.wire import rpc_pb2

if TYPE_CHECKING:
    from collections.abc import Sequence

    from google.protobuf.message import Message

    from coord.testing.sim.journal import Journal
    from coord.testing.sim.machine import Stage
    from coord.testing.sim.scripts import Op
    from coord.transport import Transport
    from coord.wire.methods import Rpc

# Codes with which a server refuses what it has not done.
_REFUSALS: Final = frozenset(
    (
        StatusCode.INVALID_ARGUMENT, StatusCode.NOT_FOUND, StatusCode.FAILED_PRECONDITION,
        StatusCode.OUT_OF_RANGE, StatusCode.PERMISSION_DENIED, StatusCode.UNIMPLEMENTED,
    )
)  # fmt: skip
_ALL: Final = (b"k", b"l")
# How many revisions a compaction leaves.
_KEPT_REVISIONS: Final = 20


class ClientNode(Machine):
    """One program. ``endpoints`` are the members' hosts; ``depth`` says which carrier it uses."""

    def __init__(
        self,
        stage: Stage,
        name: str,
        endpoints: Sequence[str],
        script: Sequence[Op],
        journal: Journal,
        *,
        depth: str,
        lease_ttl_s: int,
        rate: float = 1.0,
    ) -> None:
        super().__init__(stage, name, rate=rate)
        self.is_done: bool = False
        self._endpoints = list(endpoints)
        self._script = list(script)
        self._journal = journal
        self._depth = depth
        self._lease_ttl_s = lease_ttl_s
        self._seen: dict[bytes, int] = {}  # mod revisions by key
        self._revision = 1
        self._lease = 0

    def start(self) -> None:
        """Begin with the script."""
        self.boot(self._run)

    def carrier(self, hosts: Sequence[str] = ()) -> Transport:
        """Return a carrier to the members, or to ``hosts``; for code on this machine's loop."""
        if self.loop is None or self.net is None or self.clock is None:
            raise RuntimeError("the machine is down")
        env = Env(
            clock=self.clock,
            net=self.net,
            rand=self.rand(),
            offload=NodeOffload(self.stage.scheduler, self.loop, self.stage.seed),
        )
        hosts = hosts or self._endpoints
        if self._depth == "direct":
            return DirectTransport([TcpAddress(host, DIRECT_PORT) for host in hosts], env)
        addresses = [TcpAddress(host, CLIENT_PORT) for host in hosts]
        return NativeTransport(
            tuple(Endpoint(address=a, tls=False, text=str(a)) for a in addresses), env
        )

    async def _run(self) -> None:
        carrier = self.carrier()
        for op in self._script:
            await asyncio.sleep(op.after)
            await self._do(carrier, op)
        await carrier.close()
        self.is_done = True

    async def _do(self, carrier: Transport, op: Op) -> None:
        key = f"k{op.key}".encode()
        value = f"{self.name}.{op.id}".encode()
        match op.op:
            case "get":
                await self._ask(carrier, op, rpcs.KV_RANGE, rpc_pb2.RangeRequest(key=key))
            case "list":
                request = rpc_pb2.RangeRequest(key=_ALL[0], range_end=_ALL[1])
                await self._ask(carrier, op, rpcs.KV_RANGE, request)
            case "delete":
                await self._ask(
                    carrier,
                    op,
                    rpcs.KV_DELETE_RANGE,
                    rpc_pb2.DeleteRangeRequest(key=key, prev_kv=True),
                )
            case "cas":
                await self._ask(carrier, op, rpcs.KV_TXN, self._cas(key, value))
            case "pair":
                await self._ask(carrier, op, rpcs.KV_TXN, _pair(key, value))
            case "compact":
                revision = max(1, self._revision - _KEPT_REVISIONS)
                request_ = rpc_pb2.CompactionRequest(revision=revision)
                if await self._ask(carrier, op, rpcs.KV_COMPACT, request_) is not None:
                    self._journal.compacted = max(self._journal.compacted, revision)
            case "past":
                await self._ask(carrier, op, rpcs.KV_RANGE, self._past(op))
            case "grant" | "renew" | "revoke":
                await self._lease_op(carrier, op)
            case _:
                lease = self._lease if op.op == "leased" else 0
                request__ = rpc_pb2.PutRequest(key=key, value=value, lease=lease, prev_kv=True)
                await self._ask(carrier, op, rpcs.KV_PUT, request__)

    def _past(self, op: Op) -> rpc_pb2.RangeRequest:
        """Read everything as it was lately, or as long ago as is still to be had."""
        revision = self._revision - op.key
        if self._journal.compacted and op.id % 2:
            revision = self._journal.compacted
        return rpc_pb2.RangeRequest(key=_ALL[0], range_end=_ALL[1], revision=max(1, revision))

    def _cas(self, key: bytes, value: bytes) -> rpc_pb2.TxnRequest:
        compare = rpc_pb2.Compare(
            key=key, target=rpc_pb2.Compare.MOD, result=rpc_pb2.Compare.EQUAL,
            mod_revision=self._seen.get(key, 0),
        )  # fmt: skip
        put = rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=key, value=value))
        get = rpc_pb2.RequestOp(request_range=rpc_pb2.RangeRequest(key=key))
        return rpc_pb2.TxnRequest(compare=[compare], success=[put], failure=[get])

    async def _lease_op(self, carrier: Transport, op: Op) -> None:
        if op.op == "grant" or not self._lease:
            # Ids are the clients' own, so that a grant without an answer can be judged too.
            lease = int(self.name.rpartition(".")[2]) * 1_000_000 + op.id + 1
            request = rpc_pb2.LeaseGrantRequest(TTL=self._lease_ttl_s, ID=lease)
            sent_at = self.stage.scheduler.moment()
            granted = await self._ask(carrier, op, rpcs.LEASE_GRANT, request)
            if granted is not None:
                self._lease = lease
                self._journal.renewed(lease, sent_at, granted.TTL)
        elif op.op == "renew":
            await self._renew(carrier, op)
        else:
            lease, self._lease = self._lease, 0
            await self._ask(carrier, op, rpcs.LEASE_REVOKE, rpc_pb2.LeaseRevokeRequest(ID=lease))

    async def _renew(self, carrier: Transport, op: Op) -> None:
        sent_at = self.stage.scheduler.moment()
        request = rpc_pb2.LeaseKeepAliveRequest(ID=self._lease)
        try:
            async with asyncio.timeout(op.timeout):
                stream = await carrier.open_stream(rpcs.LEASE_KEEP_ALIVE.path, timeout=op.timeout)
                try:
                    stream.send(request.SerializeToString())
                    answer = await stream.receive()
                finally:
                    stream.cancel()
        except (RpcError, TimeoutError):
            return
        if answer is not None:
            renewed = rpc_pb2.LeaseKeepAliveResponse.FromString(answer)
            if renewed.TTL > 0:
                self._journal.renewed(self._lease, sent_at, renewed.TTL)
            else:
                self._journal.gone(self._lease)
                self._lease = 0

    async def _ask(self, carrier: Transport, op: Op, rpc: Rpc[Any, Any], request: Message) -> Any:  # noqa: ANN401 - the rpc's response
        """Make a call, record it, and return its answer; None if there is none."""
        journal = self._journal
        body = request.SerializeToString()
        call = journal.call(self.name, rpc.path.rpartition("/")[2], body)
        try:
            raw = await carrier.unary(rpc.path, body, timeout=op.timeout)
        except RpcError as error:
            text = f"{error.code.name}: {error.message}"
            if not error.sent or error.code in _REFUSALS:
                journal.failed(call, text)
            else:
                journal.lost(call, text)
            return None
        answer = rpc.response.FromString(raw)
        revision: int = answer.header.revision
        journal.answered(call, raw, revision=revision, changed=_has_changed(answer))
        self._revision = max(self._revision, revision)
        self._learn(answer)
        return answer

    def _learn(self, answer: Message) -> None:
        if isinstance(answer, rpc_pb2.RangeResponse):
            for pair in answer.kvs:
                self._seen[pair.key] = pair.mod_revision
        elif isinstance(answer, rpc_pb2.TxnResponse):
            for part in answer.responses:
                self._learn(part.response_range)


def _pair(key: bytes, value: bytes) -> rpc_pb2.TxnRequest:
    """Return a transaction that writes two keys and reads the whole range."""
    puts = [
        rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=name, value=value))
        for name in (key, b"k-both")
    ]
    read = rpc_pb2.RangeRequest(key=_ALL[0], range_end=_ALL[1])
    return rpc_pb2.TxnRequest(success=[*puts, rpc_pb2.RequestOp(request_range=read)])


def _has_changed(answer: Message) -> bool:
    if isinstance(answer, rpc_pb2.PutResponse):
        return True
    if isinstance(answer, rpc_pb2.DeleteRangeResponse):
        return answer.deleted > 0
    if isinstance(answer, rpc_pb2.TxnResponse):
        return any(
            part.HasField("response_put") or part.response_delete_range.deleted
            for part in answer.responses
        )
    # A revocation may have deleted keys or not; it is judged by the log.
    return False
