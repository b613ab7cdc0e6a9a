"""Every service method has its record, and the record says what the service says."""

from __future__ import annotations

from typing import assert_type

from google.protobuf import descriptor_pb2

from coord.wire import health_pb2, methods, rpc_pb2
from coord.wire._pool import POOL

FILES = ["auth", "election", "health", "kv", "lock", "rpc"]


def declared() -> set[tuple[str, str, str, bool, bool]]:
    found: set[tuple[str, str, str, bool, bool]] = set()
    for stem in FILES:
        file = descriptor_pb2.FileDescriptorProto()
        POOL.FindFileByName(f"coord/wire/{stem}.proto").CopyToProto(file)
        for service in file.service:
            found.update(
                (
                    f"/{file.package}.{service.name}/{method.name}",
                    method.input_type.removeprefix("."),
                    method.output_type.removeprefix("."),
                    method.client_streaming,
                    method.server_streaming,
                )
                for method in service.method
            )
    return found


def test_records_equal_the_declared_services() -> None:
    recorded = [
        (
            rpc.path,
            rpc.request.DESCRIPTOR.full_name,
            rpc.response.DESCRIPTOR.full_name,
            rpc.client_streaming,
            rpc.server_streaming,
        )
        for rpc in methods.ALL
    ]
    assert len(recorded) == len(set(recorded))
    assert set(recorded) == declared()


def test_every_constant_is_in_all() -> None:
    constants = [name for name in vars(methods) if name.isupper() and name != "ALL"]
    assert [getattr(methods, name) for name in constants] == list(methods.ALL)


def test_paths_that_clients_in_the_field_use() -> None:
    assert methods.KV_PUT.path == "/etcdserverpb.KV/Put"
    assert methods.LEASE_KEEP_ALIVE.path == "/etcdserverpb.Lease/LeaseKeepAlive"
    assert methods.LEASE_KEEP_ALIVE.client_streaming
    assert methods.AUTH_USER_ADD.path == "/etcdserverpb.Auth/UserAdd"
    assert methods.LOCK_LOCK.path == "/v3lockpb.Lock/Lock"
    assert methods.ELECTION_OBSERVE.path == "/v3electionpb.Election/Observe"
    assert methods.HEALTH_WATCH.path == "/grpc.health.v1.Health/Watch"


def test_the_type_checker_knows_request_and_response() -> None:
    assert_type(methods.KV_PUT.request, type[rpc_pb2.PutRequest])
    assert_type(methods.WATCH_WATCH.response, type[rpc_pb2.WatchResponse])
    answer = methods.HEALTH_CHECK.response(status=health_pb2.HealthCheckResponse.SERVING)
    assert_type(answer, health_pb2.HealthCheckResponse)
    assert answer.SerializeToString() == b"\x08\x01"
