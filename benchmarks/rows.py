"""What is measured: one row per client, operation and number of calls in flight."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.clients import golang
from coord.wire import rpc_pb2
from tests.support import peers

if TYPE_CHECKING:
    from pathlib import Path

KEY = b"/bench/00000001"
VALUE = b"x" * 64
H2LOAD = re.compile(r"finished in ([\d.]+)(s|ms|us), ([\d.]+) req/s")
H2LOAD_OK = re.compile(r"(\d+) succeeded")
# Debian's etcd-client and the wheel's program differ in version only; either is an unmodified client.
MISSING = "missing: install Debian's {0}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One measurement. ``writes_per_op`` says how far the store's revision moves per operation."""

    name: str
    client: str
    operation: str
    in_flight: int
    total: int
    writes_per_op: int
    must: float | None = None
    """The ratio below which this is a bug (issue or performance targets); None: for information."""


def rows() -> list[Row]:
    """All rows, in the order of the table."""
    table: list[Row] = []
    for operation, writes, must in (("put", 1, 1.0), ("get", 0, 1.0), ("txn", 1, 1.0)):
        for in_flight, total in ((1, 3_000), (64, 40_000), (256, 40_000)):
            table.append(
                Row(
                    name=f"{operation} h2load {in_flight}",
                    client="h2load",
                    operation=operation,
                    in_flight=in_flight,
                    total=total,
                    writes_per_op=writes,
                    must=must if in_flight == 64 else None,
                )
            )
    table.append(_row("grant h2load 64", "h2load", "grant", 64, 20_000, 0))
    table.extend(_keys("go", (1, 3_000), (64, 30_000), (256, 30_000)))
    table.extend(
        [
            _row("grant go 64", "go", "grant", 64, 20_000, 0),
            _row("lock own names go 16", "go", "lock-own", 16, 4_000, 2),
            _row("lock one name go 16", "go", "lock-one", 16, 800, 2),
            _row("campaign go 4", "go", "campaign", 4, 200, 2),
        ]
    )
    table.extend(_keys("aetcd", (1, 1_000), (64, 4_000), (256, 4_000)))
    table.extend(_keys("sdk", (1, 2_000), (64, 10_000), (256, 10_000)))
    table.extend(
        [
            _row("lock own names sdk 16", "sdk", "lock-own", 16, 2_000, 2),
            _row("lock one name sdk 16", "sdk", "lock-one", 16, 800, 2),
            _row("lock own names aetcd 16", "aetcd", "lock-own", 16, 1_000, 2),
            _row("watch fan-out sdk 100", "sdk", "watch", 100, 500, 1),
            _row("lock etcdctl 1", "etcdctl", "lock", 1, 15, 2),
        ]
    )
    return table


def _keys(client: str, *loads: tuple[int, int]) -> list[Row]:
    """Rows of puts, gets and transactions, for each number of calls in flight and in all."""
    return [
        _row(f"{operation} {client} {n}", client, operation, n, total, writes)
        for operation, writes in (("put", 1), ("get", 0), ("txn", 1))
        for n, total in loads
    ]


def _row(name: str, client: str, operation: str, in_flight: int, total: int, writes: int) -> Row:
    return Row(
        name=name,
        client=client,
        operation=operation,
        in_flight=in_flight,
        total=total,
        writes_per_op=writes,
    )


def body(operation: str) -> tuple[str, bytes]:
    """Return the path and the gRPC body of one request."""
    if operation == "put":
        return "/etcdserverpb.KV/Put", rpc_pb2.PutRequest(key=KEY, value=VALUE).SerializeToString()
    if operation == "get":
        return "/etcdserverpb.KV/Range", rpc_pb2.RangeRequest(key=KEY).SerializeToString()
    if operation == "grant":
        return "/etcdserverpb.Lease/LeaseGrant", rpc_pb2.LeaseGrantRequest(
            TTL=600
        ).SerializeToString()
    request = rpc_pb2.TxnRequest(
        compare=[
            rpc_pb2.Compare(
                key=KEY,
                target=rpc_pb2.Compare.VERSION,
                result=rpc_pb2.Compare.GREATER,
                version=-1,
            )
        ],
        success=[
            rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=KEY, value=VALUE)),
            rpc_pb2.RequestOp(request_range=rpc_pb2.RangeRequest(key=KEY)),
        ],
    )
    return "/etcdserverpb.KV/Txn", request.SerializeToString()


def h2load_rate(name: str, output: str, total: int) -> float:
    """Return the requests per second that h2load tells of, all of which succeeded."""
    succeeded = H2LOAD_OK.search(output)
    if succeeded is None or int(succeeded.group(1)) != total:
        raise SystemExit(f"{name}: not all requests succeeded\n{output}")
    return float(output.partition(" req/s")[0].rpartition(" ")[2])


def missing(row: Row, etcdctl: Path | None) -> str | None:
    """Say what a row lacks on this machine, None if nothing."""
    if row.client == "h2load" and peers.program("h2load") is None:
        return MISSING.format("nghttp2-client")
    if row.client == "go" and golang.program() is None:
        return MISSING.format(golang.NEEDS)
    if row.client == "etcdctl" and etcdctl is None:
        return MISSING.format("etcd-client")
    return None


def command(row: Row, endpoint: str, total: int, scratch: Path, etcdctl: Path | None) -> list[str]:
    """Return the client's command line."""
    if row.client == "h2load":
        path, message = body(row.operation)
        data = scratch / f"{row.operation}.grpc"
        data.write_bytes(b"\0" + len(message).to_bytes(4, "big") + message)
        return [
            *(peers.program("h2load") or ()),
            *("-n", str(total), "-c", "1", "-m", str(row.in_flight), "-d", str(data)),
            *("-H", "content-type: application/grpc", "-H", "te: trailers"),
            f"http://{endpoint}{path}",
        ]
    if row.client == "etcdctl":
        # One process per cycle, as scripts do it.
        loop = f'for i in $(seq {total}); do "$0" --endpoints {endpoint} lock bench/ctl true || exit 1; done'
        return ["sh", "-c", loop, str(etcdctl)]
    if row.client == "go":
        return [
            str(golang.program()),
            *(endpoint, row.operation, str(row.in_flight), str(total)),
        ]
    host, _, port = endpoint.partition(":")
    where = [host, port] if row.client == "aetcd" else [f"http://{endpoint}"]
    module = "aetcd_load" if row.client == "aetcd" else "sdk"
    return [
        sys.executable,
        *("-W", "ignore", "-m", f"benchmarks.clients.{module}", *where),
        *(row.operation, str(row.in_flight), str(total)),
    ]
