"""Calls and streams: their spans, their numbers, and the context that they carry to the server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager

import grpc.aio
import pytest
from opentelemetry import propagate, trace
from opentelemetry.propagators.textmap import CarrierT, Setter, TextMapPropagator, default_setter
from opentelemetry.trace import SpanKind, StatusCode
from typing_extensions import override

import coord
from coord.core import Carrier
from coord.rpc.status import RpcError
from coord.runtime import Runtime, real_env
from coord.store import Caller, Repeat
from coord.wire import rpc_pb2
from tests.sdk.conftest import CARRIERS
from tests.sdk.test_caller import BUSY, LOST, NEVER_SENT, OK, REFUSED, Script
from tests.support.proxy import Proxy
from tests.support.servers import free_port
from tests.support.telemetry import Listener, attributes_of, context_of, listening

PUT = "etcdserverpb.KV/Put"
PATH = f"/{PUT}"


@pytest.fixture
def listener() -> Iterator[Listener]:
    with listening() as made:
        yield made


async def test_a_call_is_a_span_of_the_caller_s(
    listener: Listener, client: coord.Client, prefix: str
) -> None:
    with listener.tracer.start_as_current_span("request") as request:
        await client.put(prefix + "k", "secret")
    put = listener.one(PUT)
    assert put.kind is SpanKind.CLIENT
    assert put.parent is not None
    assert put.parent.span_id == request.get_span_context().span_id
    attributes = attributes_of(put)
    place = [attributes.pop("server.address"), attributes.pop("server.port")]
    if len(client.endpoints) > 1:
        attributes.pop("coord.retries", None)  # a member may just be down
    assert attributes == {
        "rpc.system": "grpc",
        "rpc.service": "etcdserverpb.KV",
        "rpc.method": "Put",
        "rpc.grpc.status_code": 0,
    }
    if client.endpoints != ("memory:",):
        assert ":".join(map(str, place)) in [e.removeprefix("http://") for e in client.endpoints]
    assert put.status.status_code is StatusCode.UNSET
    assert "secret" not in put.to_json()
    assert listener.count("coord.client.call.duration", rpc__method="Put") == 1
    (series,) = listener.series("coord.client.call.duration", rpc__method="Put")
    assert series.attributes == {
        "rpc.service": "etcdserverpb.KV",
        "rpc.method": "Put",
        "rpc.grpc.status_code": 0,
    }
    assert 0 < series.total < 10


async def test_a_refused_call_tells_status_and_error(
    listener: Listener, client: coord.Client
) -> None:
    with pytest.raises(coord.LeaseNotFound):
        await client.lease_revoke(1)
    revoke = listener.one("etcdserverpb.Lease/LeaseRevoke")
    assert attributes_of(revoke)["rpc.grpc.status_code"] == 5
    assert attributes_of(revoke)["error.type"] == "LeaseNotFound"
    assert revoke.status.status_code is StatusCode.ERROR
    assert "lease not found" in (revoke.status.description or "")
    assert listener.count("coord.client.call.duration", error__type="LeaseNotFound") == 1


async def test_a_cancelled_call_is_told_as_that(listener: Listener) -> None:
    async with coord.connect(f"127.0.0.1:{free_port()}") as client:
        call = asyncio.ensure_future(client.get("k", timeout=30))
        await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    span = listener.one("etcdserverpb.KV/Range")
    assert attributes_of(span)["rpc.grpc.status_code"] == 1
    assert attributes_of(span)["error.type"] == "CancelledError"
    assert "server.address" not in attributes_of(span)


async def called(*outcomes: bytes | RpcError, repeat: Repeat) -> None:
    caller = Caller(Script(*outcomes), Runtime.inline(real_env()), request_timeout=10)
    await caller.call_raw(PATH, b"", repeat=repeat)


async def test_retries_are_events_of_the_span(listener: Listener) -> None:
    await called(NEVER_SENT, BUSY, OK, repeat=Repeat.ONCE)
    put = listener.one(PUT)
    assert [(e.name, dict(e.attributes or {})) for e in put.events] == [
        ("retry", {"rpc.grpc.status_code": 14}),
        ("retry", {"rpc.grpc.status_code": 8}),
    ]
    assert attributes_of(put)["coord.retries"] == 2
    assert attributes_of(put)["rpc.grpc.status_code"] == 0
    assert listener.total("coord.client.retries", rpc__method="Put") == 2
    assert listener.total("coord.client.retries", rpc__grpc__status_code=8) == 1


@pytest.mark.parametrize(
    ("outcome", "repeat", "status", "error"),
    [
        (REFUSED, Repeat.ONCE, 3, "RequestRefused"),
        (LOST, Repeat.ONCE, 14, "AmbiguousResult"),
    ],
)
async def test_what_is_not_repeated_is_not_counted(
    listener: Listener, outcome: RpcError, repeat: Repeat, status: int, error: str
) -> None:
    with pytest.raises(coord.CoordError):
        await called(outcome, repeat=repeat)
    put = listener.one(PUT)
    assert put.events == ()
    assert "coord.retries" not in attributes_of(put)
    assert attributes_of(put)["rpc.grpc.status_code"] == status
    assert attributes_of(put)["error.type"] == error
    assert listener.total("coord.client.retries") == 0


# -- what the server sees --------------------------------------------------------------------------------------------


class Recorder(grpc.GenericRpcHandler):
    """Answers puts, keeps streams open until the client leaves, and remembers everybody's metadata."""

    def __init__(self) -> None:
        self.seen: dict[str, dict[str, str | bytes]] = {}
        self.arrived = asyncio.Event()

    @override
    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[bytes, bytes]:
        method: str = handler_call_details.method
        metadata = handler_call_details.invocation_metadata or ()
        self.seen[method] = {str(key): value for key, value in metadata}

        async def put(request: bytes, context: object) -> bytes:
            return rpc_pb2.PutResponse(
                header=rpc_pb2.ResponseHeader(revision=7)
            ).SerializeToString()

        async def stream(requests: AsyncIterator[bytes], context: object) -> AsyncIterator[bytes]:
            self.arrived.set()
            async for _ in requests:
                pass
            for nothing in list[bytes]():
                yield nothing

        if method.endswith("/Put"):
            return grpc.unary_unary_rpc_method_handler(put)
        return grpc.stream_stream_rpc_method_handler(stream)


@asynccontextmanager
async def recording() -> AsyncGenerator[tuple[Recorder, str]]:
    recorder, server = Recorder(), grpc.aio.server()
    server.add_generic_rpc_handlers((recorder,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield recorder, f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


def traceparent(context: trace.SpanContext) -> str:
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


@pytest.mark.parametrize("transport", CARRIERS)
async def test_requests_and_streams_carry_their_span(
    listener: Listener, transport: Carrier
) -> None:
    async with recording() as (recorder, endpoint):
        async with coord.connect(endpoint, transport=transport) as client:
            with listener.tracer.start_as_current_span("request") as request:
                await client.put("k", "v")
                watch = client.watch("k", start_revision=1)
                async with watch:
                    await recorder.arrived.wait()
        put, stream = listener.one(PUT), listener.one("etcdserverpb.Watch/Watch")
        assert recorder.seen[PATH]["traceparent"] == traceparent(context_of(put))
        sent = recorder.seen["/etcdserverpb.Watch/Watch"]
        assert sent["traceparent"] == traceparent(context_of(stream))
        assert sent["hasleader"] == "true"
        assert context_of(put).trace_id == request.get_span_context().trace_id


class Odd(TextMapPropagator):
    """Wants to send what no gRPC call can carry."""

    @override
    def extract(self, *args: object, **kwargs: object) -> object:  # type: ignore[override]
        raise NotImplementedError

    @override
    def inject(
        self,
        carrier: CarrierT,
        context: object = None,
        setter: Setter[CarrierT] = default_setter,
    ) -> None:
        for key, value in (("X-B3", "1"), ("x-line", "a\nb"), ("grpc-timeout", "1S"), ("ü", "1")):
            setter.set(carrier, key, value)

    @property
    @override
    def fields(self) -> set[str]:
        return set()


async def test_what_cannot_be_carried_is_left_out(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(propagate, "get_global_textmap", Odd)
    async with recording() as (recorder, endpoint), coord.connect(endpoint) as client:
        await client.put("k", "v")
    sent = recorder.seen[PATH]
    assert sent["x-b3"] == "1"
    assert not {"x-line", "traceparent"} & sent.keys()


async def test_nothing_is_carried_without_a_provider() -> None:
    async with recording() as (recorder, endpoint), coord.connect(endpoint) as client:
        await client.put("k", "v")
        assert "traceparent" not in recorder.seen[PATH]


# -- streams and connections ----------------------------------------------------------------------------------------


async def test_a_stream_is_a_root_span_linked_to_where_it_was_opened(
    listener: Listener, client: coord.Client, prefix: str
) -> None:
    with listener.tracer.start_as_current_span("request") as request:
        await client.lease_keep_alive_once((await client.lease_grant(60)).lease_id)
    stream = listener.one("etcdserverpb.Lease/LeaseKeepAlive")
    assert stream.kind is SpanKind.CLIENT
    assert stream.parent is None
    assert [link.context.span_id for link in stream.links] == [request.get_span_context().span_id]
    assert attributes_of(stream)["rpc.method"] == "LeaseKeepAlive"
    assert attributes_of(stream)["rpc.grpc.status_code"] == 1  # our own end, no error
    assert stream.status.status_code is StatusCode.UNSET
    assert listener.total("coord.client.streams", rpc__method="LeaseKeepAlive") == 1


async def test_a_lost_stream_says_so(listener: Listener, endpoint: str, prefix: str) -> None:
    async with (
        Proxy(endpoint) as proxy,
        coord.connect(proxy.endpoint) as client,
        client.watch(prefix) as watch,
    ):
        proxy.cut()
        # Repeated until there is a connection again, as a write would not be.
        await client.get(prefix)
        await client.put(prefix, "x")
        await anext(watch)
    first = listener.named("etcdserverpb.Watch/Watch")[0]
    assert attributes_of(first)["rpc.grpc.status_code"] == 14
    assert attributes_of(first)["error.type"] == "RpcError"
    assert first.status.status_code is StatusCode.ERROR
    assert listener.total("coord.client.connections", coord__event="opened") == 2
    assert listener.total("coord.client.connections", coord__event="lost") == 1


async def test_failed_connections_are_counted_by_place(listener: Listener) -> None:
    port = free_port()
    async with coord.connect(f"127.0.0.1:{port}") as client:
        with pytest.raises(coord.Unavailable):
            await client.get("k", timeout=0.3)
    place = {"server__address": "127.0.0.1", "server__port": port}
    assert listener.total("coord.client.connections", coord__event="failed", **place) >= 1
    assert listener.total("coord.client.connections", coord__event="opened") == 0


async def test_a_watch_is_a_span_with_bounded_names_and_counted_events(
    listener: Listener, client: coord.Client, prefix: str
) -> None:
    key = prefix + "k" * 1000
    async with client.watch(key) as watch:
        for number in range(3):
            await client.put(key, f"{number}")
        for _ in range(3):
            await anext(watch)
        assert listener.named("coord.watch") == []
    span = listener.one("coord.watch")
    assert span.attributes == {"coord.watch.key": key[:128], "coord.watch.end": ""}
    assert listener.total("coord.client.watch.events") == 3
    assert listener.count("coord.client.watch.lag") >= 1


async def test_a_late_watch_lags(listener: Listener, client: coord.Client, prefix: str) -> None:
    first = await client.put(prefix, "0")
    await client.put(prefix + "other", "1")
    await client.put(prefix + "other", "2")
    async with client.watch(prefix, start_revision=first.revision) as watch:
        await anext(watch)
    assert listener.total("coord.client.watch.lag") >= 2
