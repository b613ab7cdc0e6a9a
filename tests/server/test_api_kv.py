"""The services of one server, called by grpcio: what only the API layer decides."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import TypeAlias, TypeVar

import grpc
import grpc.aio
import pytest
from google.protobuf.message import Message

from coord.rpc.service import RequestHead
from coord.rpc.status import RpcError, StatusCode
from coord.runtime import RealNet, TcpAddress, real_env
from coord.wire import health_pb2, rpc_pb2
from coord.wire import methods as rpcs
from coord_server import errors
from coord_server.config import Config
from coord_server.embed import start_embedded
from coord_server.flag_values import Url
from coord_server.mvcc.txn import has_put
from coord_server.server import Server

Q = TypeVar("Q", bound=Message)
A = TypeVar("A", bound=Message)
Unary: TypeAlias = "grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]"
Stream: TypeAlias = "grpc.aio.UnaryStreamMultiCallable[bytes, bytes]"

LOOPBACK = (Url(scheme="http", host="127.0.0.1", port=0),)


class Site:
    """A server in this process and a grpcio channel to it."""

    def __init__(self, server: Server) -> None:
        self.server = server
        (address,) = server.client_addresses
        assert isinstance(address, TcpAddress)
        self.channel = grpc.aio.insecure_channel(str(address))

    async def call(self, rpc: rpcs.Rpc[Q, A], request: Q, **metadata: str) -> A:
        raw = await self.raw(rpc, request.SerializeToString(), **metadata)
        return rpc.response.FromString(raw)

    async def raw(self, rpc: rpcs.Rpc[Q, A], message: bytes, **metadata: str) -> bytes:
        method: Unary = self.channel.unary_unary(rpc.path)
        pairs = tuple((key.replace("_", "-"), value) for key, value in metadata.items())
        return await method(message, metadata=pairs, timeout=20)

    async def put(self, key: bytes, value: bytes = b"v") -> int:
        answer = await self.call(rpcs.KV_PUT, rpc_pb2.PutRequest(key=key, value=value))
        return int(answer.header.revision)

    async def stream(self, request: rpc_pb2.RangeRequest) -> list[rpc_pb2.RangeResponse]:
        method: Stream = self.channel.unary_stream(rpcs.KV_RANGE_STREAM.path)
        return [
            rpc_pb2.RangeStreamResponse.FromString(raw).range_response
            async for raw in method(request.SerializeToString(), timeout=20)
        ]

    async def refused(self, rpc: rpcs.Rpc[Q, A], request: Q, **metadata: str) -> tuple[int, str]:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.call(rpc, request, **metadata)
        return status_of(caught.value)


def status_of(error: grpc.aio.AioRpcError) -> tuple[int, str]:
    # grpc's own enum carries (number, text).
    number: int = error.code().value[0]
    return number, error.details() or ""


async def site_with(config: Config | None = None) -> Site:
    config = replace(config or Config(), name="t", listen_client_urls=LOOPBACK)
    return Site(await start_embedded(net=RealNet(), env=real_env(), config=config))


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    made = await site_with()
    yield made
    await made.channel.close()
    await made.server.stop()


def spec(error: errors.ErrorSpec) -> tuple[int, str]:
    return int(error.code), error.message


async def test_put_range_delete(site: Site) -> None:
    assert await site.put(b"a", b"1") == 2
    answer = await site.call(rpcs.KV_RANGE, rpc_pb2.RangeRequest(key=b"a"))
    assert (answer.count, answer.kvs[0].value, answer.kvs[0].create_revision) == (1, b"1", 2)
    assert answer.header.member_id == site.server.member_id
    assert answer.header.raft_term >= 1
    absent = await site.call(rpcs.KV_RANGE, rpc_pb2.RangeRequest(key=b"b", serializable=True))
    assert (absent.count, len(absent.kvs), absent.header.revision) == (0, 0, 2)
    gone = await site.call(
        rpcs.KV_DELETE_RANGE,
        rpc_pb2.DeleteRangeRequest(key=b"\0", range_end=b"\0", prev_kv=True),
    )
    assert (gone.deleted, gone.prev_kvs[0].value, gone.header.revision) == (1, b"1", 3)


@pytest.mark.parametrize(
    ("rpc", "request_", "error"),
    [
        (rpcs.KV_PUT, rpc_pb2.PutRequest(value=b"v"), errors.EMPTY_KEY),
        (
            rpcs.KV_PUT,
            rpc_pb2.PutRequest(key=b"k", value=b"v", ignore_value=True),
            errors.VALUE_PROVIDED,
        ),
        (rpcs.KV_PUT, rpc_pb2.PutRequest(key=b"k", ignore_value=True), errors.KEY_NOT_FOUND),
        (rpcs.KV_PUT, rpc_pb2.PutRequest(key=b"k", lease=7), errors.LEASE_NOT_FOUND),
        (rpcs.KV_RANGE, rpc_pb2.RangeRequest(), errors.EMPTY_KEY),
        (rpcs.KV_RANGE, rpc_pb2.RangeRequest(key=b"k", revision=99), errors.FUTURE_REV),
        (rpcs.KV_DELETE_RANGE, rpc_pb2.DeleteRangeRequest(), errors.EMPTY_KEY),
        (
            rpcs.KV_TXN,
            rpc_pb2.TxnRequest(compare=[rpc_pb2.Compare(key=b"k")] * 129),
            errors.TOO_MANY_OPS,
        ),
        (rpcs.KV_COMPACT, rpc_pb2.CompactionRequest(revision=99), errors.FUTURE_REV),
        (rpcs.KV_COMPACT, rpc_pb2.CompactionRequest(revision=-1), errors.COMPACTED),
    ],
)
async def test_refusals(
    site: Site, rpc: rpcs.Rpc[Message, Message], request_: Message, error: errors.ErrorSpec
) -> None:
    assert await site.refused(rpc, request_) == spec(error)


@pytest.mark.parametrize(
    "rpc",
    [
        rpcs.KV_PUT,
        rpcs.KV_RANGE,
        rpcs.KV_DELETE_RANGE,
        rpcs.KV_TXN,
        rpcs.KV_COMPACT,
        rpcs.CLUSTER_MEMBER_LIST,
        rpcs.MAINTENANCE_STATUS,
        rpcs.HEALTH_CHECK,
    ],
    ids=lambda rpc: rpc.path,
)
async def test_bytes_that_are_no_request(site: Site, rpc: rpcs.Rpc[Message, Message]) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await site.raw(rpc, b"\x0a\xff")
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert (caught.value.details() or "").startswith("grpc: error unmarshalling request")


async def test_size_limit_counts_the_envelope() -> None:
    site = await site_with(Config(max_request_bytes=1000))
    try:
        fits = rpc_pb2.PutRequest(key=b"k", value=b"v" * 976)
        assert fits.ByteSize() == 982
        await site.call(rpcs.KV_PUT, fits)
        large = rpc_pb2.PutRequest(key=b"k", value=b"v" * 977)
        assert await site.refused(rpcs.KV_PUT, large) == spec(errors.REQUEST_TOO_LARGE)
        wrapped = rpc_pb2.TxnRequest(success=[rpc_pb2.RequestOp(request_put=large)])
        assert await site.refused(rpcs.KV_TXN, wrapped) == spec(errors.REQUEST_TOO_LARGE)
        too_long = rpc_pb2.DeleteRangeRequest(key=b"k" * 1000)
        assert await site.refused(rpcs.KV_DELETE_RANGE, too_long) == spec(errors.REQUEST_TOO_LARGE)
        # Reads have no such limit, only that of the transport.
        await site.call(rpcs.KV_RANGE, rpc_pb2.RangeRequest(key=b"k" * 1000))
    finally:
        await site.channel.close()
        await site.server.stop()


async def test_space_is_asked_for_before_the_shape() -> None:
    site = await site_with(Config(quota_backend_bytes=1))
    try:
        assert site.server.context.room.left <= 1
        assert await site.refused(rpcs.KV_PUT, rpc_pb2.PutRequest()) == spec(errors.NO_SPACE)
        put = rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=b"k"))
        nested = rpc_pb2.RequestOp(request_txn=rpc_pb2.TxnRequest(failure=[put]))
        txn = rpc_pb2.TxnRequest(success=[nested])
        assert await site.refused(rpcs.KV_TXN, txn) == spec(errors.NO_SPACE)
        delete = rpc_pb2.DeleteRangeRequest(key=b"k")
        free = rpc_pb2.TxnRequest(success=[rpc_pb2.RequestOp(request_delete_range=delete)])
        assert (await site.call(rpcs.KV_TXN, free)).succeeded
        assert (await site.call(rpcs.KV_DELETE_RANGE, delete)).deleted == 0
        alarms = await site.call(rpcs.MAINTENANCE_ALARM, rpc_pb2.AlarmRequest())
        assert [alarm.alarm for alarm in alarms.alarms] == [rpc_pb2.NOSPACE]
        status = await site.call(rpcs.MAINTENANCE_STATUS, rpc_pb2.StatusRequest())
        assert list(status.errors) == [f"memberID:{site.server.member_id} alarm:NOSPACE "]
    finally:
        await site.channel.close()
        await site.server.stop()


def test_puts_are_found_in_every_branch_and_depth() -> None:
    put = rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=b"k"))
    read = rpc_pb2.RequestOp(request_range=rpc_pb2.RangeRequest(key=b"k"))
    assert not has_put(rpc_pb2.TxnRequest(success=[read], failure=[read]))
    assert has_put(rpc_pb2.TxnRequest(success=[read], failure=[read, put]))
    inner = rpc_pb2.RequestOp(request_txn=rpc_pb2.TxnRequest(success=[put]))
    assert has_put(rpc_pb2.TxnRequest(success=[inner]))


async def test_reading_txns_stay_out_of_the_log(site: Site) -> None:
    await site.put(b"a", b"1")
    before = await site.call(rpcs.MAINTENANCE_STATUS, rpc_pb2.StatusRequest())
    read = rpc_pb2.RequestOp(request_range=rpc_pb2.RangeRequest(key=b"a"))
    compare = rpc_pb2.Compare(key=b"a", target=rpc_pb2.Compare.VERSION, version=1)
    answer = await site.call(
        rpcs.KV_TXN, rpc_pb2.TxnRequest(compare=[compare], success=[read, read])
    )
    assert answer.succeeded
    assert [op.response_range.kvs[0].value for op in answer.responses] == [b"1", b"1"]
    after = await site.call(rpcs.MAINTENANCE_STATUS, rpc_pb2.StatusRequest())
    assert after.raftIndex == before.raftIndex
    write = rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=b"b"))
    await site.call(rpcs.KV_TXN, rpc_pb2.TxnRequest(compare=[compare], failure=[write]))
    later = await site.call(rpcs.MAINTENANCE_STATUS, rpc_pb2.StatusRequest())
    assert later.raftIndex == before.raftIndex + 1


async def test_compaction_with_and_without_waiting(site: Site) -> None:
    for number in range(20):
        await site.put(b"k", b"%d" % number)
    answer = await site.call(rpcs.KV_COMPACT, rpc_pb2.CompactionRequest(revision=10))
    assert answer.header.revision == 21
    old = rpc_pb2.RangeRequest(key=b"k", revision=9)
    assert await site.refused(rpcs.KV_RANGE, old) == spec(errors.COMPACTED)
    assert (await site.call(rpcs.KV_RANGE, rpc_pb2.RangeRequest(key=b"k", revision=10))).count == 1
    physical = rpc_pb2.CompactionRequest(revision=15, physical=True)
    assert (await site.call(rpcs.KV_COMPACT, physical)).header.revision == 21
    assert await site.refused(rpcs.KV_COMPACT, physical) == spec(errors.COMPACTED)


async def test_range_stream_equals_range(site: Site) -> None:
    for number in range(75):
        await site.put(b"k%03d" % number, b"v" * number)
    for request in (
        rpc_pb2.RangeRequest(key=b"k", range_end=b"l"),
        rpc_pb2.RangeRequest(key=b"k", range_end=b"l", limit=30),
        rpc_pb2.RangeRequest(key=b"k", range_end=b"l", limit=75),
        rpc_pb2.RangeRequest(key=b"k", range_end=b"l", keys_only=True, revision=40),
        rpc_pb2.RangeRequest(key=b"k", range_end=b"l", count_only=True),
        rpc_pb2.RangeRequest(key=b"k007"),
        rpc_pb2.RangeRequest(key=b"none", range_end=b"nothing"),
    ):
        whole = await site.call(rpcs.KV_RANGE, request)
        parts = await site.stream(request)
        merged = rpc_pb2.RangeResponse()
        for part in parts:
            merged.MergeFrom(part)
        assert merged == whole
        assert not any(part.HasField("header") or part.count for part in parts[:-1])
    (first, *_) = await site.stream(rpc_pb2.RangeRequest(key=b"k", range_end=b"l"))
    assert len(first.kvs) == 10


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (rpc_pb2.RangeRequest(), errors.EMPTY_KEY),
        (
            rpc_pb2.RangeRequest(key=b"k", sort_order=rpc_pb2.RangeRequest.DESCEND),
            errors.RANGE_STREAM_SORT,
        ),
        (rpc_pb2.RangeRequest(key=b"k", min_mod_revision=1), errors.RANGE_STREAM_FILTER),
        (rpc_pb2.RangeRequest(key=b"k", revision=99), errors.FUTURE_REV),
    ],
)
async def test_range_stream_refusals(
    site: Site, request_: rpc_pb2.RangeRequest, error: errors.ErrorSpec
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await site.stream(request_)
    assert status_of(caught.value) == spec(error)


async def test_members_and_status(site: Site) -> None:
    for linearizable in (False, True):
        answer = await site.call(
            rpcs.CLUSTER_MEMBER_LIST, rpc_pb2.MemberListRequest(linearizable=linearizable)
        )
        (member,) = answer.members
        assert (member.ID, member.name, member.isLearner) == (site.server.member_id, "t", False)
        assert list(member.peerURLs) == ["http://localhost:2380"]
        assert list(member.clientURLs) == list(site.server.client_urls)
        assert (answer.header.revision, answer.header.member_id) == (0, member.ID)
    await site.put(b"a")
    status = await site.call(rpcs.MAINTENANCE_STATUS, rpc_pb2.StatusRequest())
    assert status.version == "3.5.21"
    assert status.leader == site.server.member_id
    assert status.raftTerm == status.header.raft_term >= 1
    assert status.raftIndex == status.raftAppliedIndex >= 2
    assert status.dbSize >= status.dbSizeInUse > 0
    assert (list(status.errors), status.isLearner) == ([], False)


async def test_what_is_not_there_is_unimplemented(site: Site) -> None:
    code, text = await site.refused(rpcs.AUTH_ENABLE, rpc_pb2.AuthEnableRequest())
    assert code == StatusCode.UNIMPLEMENTED
    assert text == "unknown service etcdserverpb.Auth"


async def test_health_service(site: Site) -> None:
    request = health_pb2.HealthCheckRequest()
    status = health_pb2.HealthCheckResponse.ServingStatus
    assert (await site.call(rpcs.HEALTH_CHECK, request)).status == status.SERVING
    code, text = await site.refused(
        rpcs.HEALTH_CHECK, health_pb2.HealthCheckRequest(service="other")
    )
    assert (code, text) == (StatusCode.NOT_FOUND, "unknown service")
    watch: Stream = site.channel.unary_stream(rpcs.HEALTH_WATCH.path)
    for service, expected in (("", status.SERVING), ("other", status.SERVICE_UNKNOWN)):
        call = watch(health_pb2.HealthCheckRequest(service=service).SerializeToString())
        raw = await call.read()
        assert isinstance(raw, bytes)
        assert health_pb2.HealthCheckResponse.FromString(raw).status == expected
        call.cancel()


async def test_metadata_is_counted_and_leader_demands_are_met(site: Site) -> None:
    request = rpc_pb2.RangeRequest(key=b"a")
    await site.call(rpcs.KV_RANGE, request, hasleader="true", client_api_version="3.5")
    text = site.server.metrics.text()
    assert 'etcd_server_client_requests_total{type="unary",client_api_version="3.5"} 1\n' in text
    assert (
        'grpc_server_handled_total{grpc_code="OK",grpc_method="Range",'
        'grpc_service="etcdserverpb.KV",grpc_type="unary"} 1\n'
    ) in text
    await site.refused(rpcs.KV_RANGE, rpc_pb2.RangeRequest())
    assert 'grpc_code="InvalidArgument",grpc_method="Range"' in site.server.metrics.text()


class FakeReplica:
    leader_id = 0
    term = 1


async def test_heads_that_forbid_a_call(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    context = site.server.context
    broken = RequestHead("/x", "", (("client-api-version", "\\xff"),), None, {})
    for check in (context.check_head, context.check_stream_head):
        with pytest.raises(RpcError) as caught:
            check(broken)
        assert caught.value.message == errors.INVALID_CLIENT_API_VERSION.message
    context.check_head(RequestHead("/x", "", (("client-api-version", "\\xc3\\xa4"),), None, {}))
    monkeypatch.setattr(context, "replica", FakeReplica())
    patient = RequestHead("/x", "", (("hasleader", "false"), ("hasleader", "true")), None, {})
    context.check_head(patient)
    assert context.check_stream_head(patient) is False
    strict = RequestHead("/x", "", (("hasleader", "true"),), None, {})
    for check in (context.check_head, context.check_stream_head):
        with pytest.raises(RpcError) as caught:
            check(strict)
        assert caught.value.message == errors.NO_LEADER.message


async def test_client_versions_cannot_flood_the_metrics(site: Site) -> None:
    for number in range(100):
        head = RequestHead("/x", "", (("client-api-version", f"9.{number}"),), None, {})
        site.server.context.check_head(head)
    text = site.server.metrics.text()
    assert text.count("etcd_server_client_requests_total{") <= 40
    assert 'client_api_version="other"} 68\n' in text
