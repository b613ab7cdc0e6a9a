"""Generated scripts, sent to coord-server and to a release of etcd: every answer is the same.

They are dealt out to two lanes that run side by side: 3.5.1 by grpcio, and 3.4.23, where it is, by our
own client. ``COORD_COMPAT_SCRIPTS=2000`` runs more of them, ``COORD_COMPAT_SEED=17`` starts from
another seed. ``python -m tests.compat.longrun`` is for many thousand.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from coord.wire import methods as rpcs
from coord.wire import rpc_pb2
from tests.compat.answers import Answer, Step
from tests.compat.generator import MAX_TXN_OPS, Script
from tests.compat.longrun import compare
from tests.compat.pair import CarrierName, Pair, pair_of_servers
from tests.support.servers import etcd_versions

pytestmark = [pytest.mark.etcd, pytest.mark.processes]

SCRIPTS = int(os.environ.get("COORD_COMPAT_SCRIPTS", "150"))
FIRST_SEED = int(os.environ.get("COORD_COMPAT_SEED", "1"))
LANES: tuple[tuple[str, CarrierName], ...] = (
    (etcd_versions()[0], "grpcio"),
    (etcd_versions()[-1], "native"),
)
PAIRS_OF_SEEDS = [
    (seed, seed + (SCRIPTS + 1) // 2) for seed in range(FIRST_SEED, FIRST_SEED + (SCRIPTS + 1) // 2)
]


@pytest.fixture(scope="module")
def lanes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Pair]]:
    flag = f"--max-txn-ops={MAX_TXN_OPS}"
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(
                pair_of_servers(
                    tmp_path_factory.mktemp("pair"), flag, version=release, carrier=carrier
                )
            )
            for release, carrier in LANES
        ]


@pytest.mark.parametrize("seeds", PAIRS_OF_SEEDS, ids=lambda seeds: "-".join(map(str, seeds)))
def test_generated_scripts(lanes: list[Pair], seeds: tuple[int, int]) -> None:
    with ThreadPoolExecutor(len(lanes)) as pool:
        stories = list(pool.map(compare, lanes, seeds))
    for pair, seed, story in zip(lanes, seeds, stories, strict=True):
        if story:
            pytest.fail(f"seed {seed}, etcd {pair.version}:\n{story}", pytrace=False)


# What the generator does not reach: a store without history, and requests of great size.


def _all(revision: int = 0) -> rpc_pb2.RangeRequest:
    return rpc_pb2.RangeRequest(key=b"\x00", range_end=b"\x00", revision=revision)


def _read(revision: int = 0) -> Step:
    return Step(rpcs.KV_RANGE, _all(revision))


def _read_in_txn(revision: int) -> Step:
    request = rpc_pb2.TxnRequest()
    request.success.add(request_range=_all(revision))
    return Step(rpcs.KV_TXN, request)


def _compact(revision: int) -> Step:
    return Step(rpcs.KV_COMPACT, rpc_pb2.CompactionRequest(revision=revision))


def _put(size: int) -> Step:
    return Step(rpcs.KV_PUT, rpc_pb2.PutRequest(key=b"k", value=bytes(size)))


def _puts(number: int) -> Step:
    request = rpc_pb2.TxnRequest()
    for key in range(number):
        request.success.add(request_put=rpc_pb2.PutRequest(key=b"%d" % key))
    return Step(rpcs.KV_TXN, request)


MIB = 1 << 20
EDGES = [
    *(_read(), _read(1), _read(2), _read(-1)),
    *(_read_in_txn(-1), _read_in_txn(-2), _read_in_txn(1), _read_in_txn(2)),
    *(_compact(-1), _compact(2), Step(rpcs.KV_TXN, rpc_pb2.TxnRequest())),
    *(_compact(0), _compact(0), _read_in_txn(-1), _read(-1), _compact(1), _compact(1)),
    *(_put(10), _read_in_txn(1), _read(1), _compact(2), _read(1), _read(2)),
    *(_puts(128), _puts(129), _put(0)),
    # The limit is on the request with its envelope; far above it gRPC itself refuses.
    *(_put(3 * MIB // 2 - 1000), _put(3 * MIB // 2), _put(2 * MIB - 1000), _put(2 * MIB)),
    Step(rpcs.KV_RANGE, rpc_pb2.RangeRequest(key=b"k", keys_only=True)),
]


@pytest.mark.parametrize("release", etcd_versions())
def test_edges_of_a_fresh_store(release: str, tmp_path: Path) -> None:
    with pair_of_servers(tmp_path, version=release) as fresh:
        for step in EDGES:
            ours, theirs = fresh.ask(step)
            assert ours == theirs, str(step)[:200]


@pytest.mark.parametrize("release", etcd_versions())
def test_a_nested_put_needs_space_too(release: str, tmp_path: Path) -> None:
    """Different on purpose: both releases look at the outer operations only."""
    nested = rpc_pb2.TxnRequest()
    nested.success.add(request_put=rpc_pb2.PutRequest(key=b"k"))
    outer = rpc_pb2.TxnRequest()
    outer.success.add(request_txn=nested)
    alarm = rpc_pb2.AlarmRequest(action=rpc_pb2.AlarmRequest.ACTIVATE, alarm=rpc_pb2.NOSPACE)
    with pair_of_servers(tmp_path, version=release) as fresh:
        fresh.ask(Step(rpcs.MAINTENANCE_ALARM, alarm))
        refused = Answer(8, "etcdserver: mvcc: database space exceeded")
        ours, theirs = fresh.ask(Step(rpcs.KV_TXN, nested))
        assert ours == theirs == refused
        ours, theirs = fresh.ask(Step(rpcs.KV_TXN, outer))
        assert ours == refused
        assert theirs.code == 0


def test_everything_is_generated() -> None:
    kinds = {step.rpc.path for seed in range(1, 50) for step in Script(seed, 100).steps}
    assert kinds == {
        rpc.path
        for rpc in (
            *(rpcs.KV_RANGE, rpcs.KV_PUT, rpcs.KV_DELETE_RANGE, rpcs.KV_TXN, rpcs.KV_COMPACT),
            *(rpcs.LEASE_GRANT, rpcs.LEASE_REVOKE, rpcs.LEASE_KEEP_ALIVE),
            *(rpcs.LEASE_TIME_TO_LIVE, rpcs.LEASE_LEASES, rpcs.LOCK_LOCK, rpcs.LOCK_UNLOCK),
            *(rpcs.ELECTION_CAMPAIGN, rpcs.ELECTION_PROCLAIM, rpcs.ELECTION_LEADER),
            *(rpcs.ELECTION_OBSERVE, rpcs.ELECTION_RESIGN, rpcs.CLUSTER_MEMBER_LIST),
            *(rpcs.MAINTENANCE_ALARM, rpcs.MAINTENANCE_STATUS, rpcs.MAINTENANCE_HASH_KV),
        )
    }
