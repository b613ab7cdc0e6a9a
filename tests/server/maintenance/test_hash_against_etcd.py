"""HashKV is etcd's: the same requests on both, and on the model, give the same numbers.

``COORD_HASH_SCRIPTS`` (default 20) and ``COORD_HASH_SEED`` make longer and other runs.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import grpc
import pytest
from google.protobuf.message import Message

from coord.testing.model import Model
from coord.wire import methods as rpcs
from coord.wire import rpc_pb2 as pb
from tests.support.servers import coord_server_process, real_etcd

A = TypeVar("A", bound=Message)
Unary: TypeAlias = "grpc.UnaryUnaryMultiCallable[bytes, bytes]"

SCRIPTS = int(os.environ.get("COORD_HASH_SCRIPTS", "20"))
SEED = int(os.environ.get("COORD_HASH_SEED", "0")) or random.SystemRandom().getrandbits(32)
KEYS = [b"a", b"a\x00", b"ab", b"b", b"c", b"\xff"]


@dataclass
class Both:
    """The two servers and the model, which all hold the same."""

    coord: grpc.Channel
    etcd: grpc.Channel
    model: Model
    swept: bool = True

    def ask(self, rpc: rpcs.Rpc[Any, A], request: Message) -> A:
        first, second = (
            rpc.response.FromString(_call(channel, rpc.path, request))
            for channel in (self.coord, self.etcd)
        )
        assert _revision(first) == _revision(second)
        return first

    def hashes(self, revision: int) -> None:
        """Compare the hash at a revision on all three."""
        request = pb.HashKVRequest(revision=revision)
        ours, theirs = (
            pb.HashKVResponse.FromString(_call(channel, rpcs.MAINTENANCE_HASH_KV.path, request))
            for channel in (self.coord, self.etcd)
        )
        assert ours.compact_revision == theirs.compact_revision == self.model.compact_revision
        assert ours.header.revision == theirs.header.revision == self.model.revision
        assert ours.hash_revision == (revision or self.model.revision)
        assert ours.hash == self.model.hash_kv(revision)
        # etcd removes in the background, and meanwhile its hash of an empty store is not settled.
        if self.swept or self.model.at(revision or self.model.revision):
            assert ours.hash == theirs.hash


def _call(channel: grpc.Channel, path: str, request: Message) -> bytes:
    multi: Unary = channel.unary_unary(path)
    return multi(request.SerializeToString(), timeout=30)


def _revision(answer: Any) -> int:  # noqa: ANN401 - any response
    return int(answer.header.revision)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    path: Path = tmp_path_factory.mktemp("hash")
    with (
        coord_server_process(path / "coord", "--compaction-batch-limit=3") as ours,
        real_etcd(path / "etcd") as theirs,
        grpc.insecure_channel(ours.endpoint) as first,
        grpc.insecure_channel(theirs.endpoint) as second,
    ):
        yield Both(first, second, Model())


def _put(both: Both, rng: random.Random) -> None:
    leases = sorted(both.model.leases)
    request = pb.PutRequest(
        key=rng.choice(KEYS),
        value=rng.choice([b"", b"1", b"x" * 200, rng.randbytes(5)]),
        lease=rng.choice([0, 0, *leases]),
    )
    both.model.put(request)
    both.ask(rpcs.KV_PUT, request)


def _delete(both: Both, rng: random.Random) -> None:
    request = pb.DeleteRangeRequest(key=rng.choice(KEYS), range_end=rng.choice([b"", b"b", b"\0"]))
    both.model.delete_range(request)
    both.ask(rpcs.KV_DELETE_RANGE, request)


def _txn(both: Both, rng: random.Random) -> None:
    request = pb.TxnRequest()
    if rng.random() < 0.3:
        # The end \0 is taken literally when duplicates are looked for: a delete and a put of one key.
        op = request.success.add()
        op.request_delete_range.key, op.request_delete_range.range_end = b"a", b"\0"
    for key in rng.sample(KEYS, 3):
        put = request.success.add().request_put
        put.key, put.value = key, b"t"
    both.model.txn(request)
    both.ask(rpcs.KV_TXN, request)


def _grant(both: Both, rng: random.Random) -> None:
    lease_id = rng.choice(
        [n for n in (5, -6, 1 << 62, *range(10, 300)) if n not in both.model.leases]
    )
    request = pb.LeaseGrantRequest(ID=lease_id, TTL=3600)
    both.model.grant(request)
    both.ask(rpcs.LEASE_GRANT, request)


def _revoke(both: Both, rng: random.Random) -> None:
    if both.model.leases:
        request = pb.LeaseRevokeRequest(ID=rng.choice(sorted(both.model.leases)))
        both.model.revoke(request)
        both.ask(rpcs.LEASE_REVOKE, request)


def _compact(both: Both, rng: random.Random) -> None:
    model = both.model
    low = max(model.compact_revision + 1, model.revision - 12)
    if low <= model.revision:
        request = pb.CompactionRequest(revision=rng.randint(low, model.revision))
        model.compact(request)
        request.physical = both.swept = rng.random() < 0.7
        both.ask(rpcs.KV_COMPACT, request)


_STEPS = [_put] * 8 + [_delete] * 3 + [_txn] * 3 + [_grant, _revoke] + [_compact] * 2


@pytest.mark.etcd
def test_hashes_are_those_of_etcd(both: Both) -> None:
    print(f"COORD_HASH_SEED={SEED} COORD_HASH_SCRIPTS={SCRIPTS}")
    rng = random.Random(SEED)
    model = both.model
    both.hashes(0)
    for _ in range(SCRIPTS):
        for _ in range(rng.randrange(1, 15)):
            rng.choice(_STEPS)(both, rng)
        if rng.random() < 0.2:
            everything = pb.DeleteRangeRequest(key=b"\0", range_end=b"\0")
            model.delete_range(everything)
            both.ask(rpcs.KV_DELETE_RANGE, everything)
        both.hashes(0)
        # etcd 3.5.1 refuses the compact revision itself; later releases and ours do not.
        for revision in range(
            max(model.compact_revision + 1, model.revision - 8), model.revision + 1
        ):
            both.hashes(revision)
    assert model.compact_revision > 0


@pytest.mark.etcd
def test_revisions_that_have_no_hash(both: Both) -> None:
    rng = random.Random(SEED)
    _put(both, rng)
    _put(both, rng)
    # Not the first revision: the one before it is 0, which stands for the latest and has a hash.
    compacted = both.model.revision
    request = pb.CompactionRequest(revision=compacted, physical=True)
    both.model.compact(request)
    both.ask(rpcs.KV_COMPACT, request)
    for revision in (compacted - 1, both.model.revision + 1, 1 << 62):
        refusals: list[tuple[Any, Any]] = []
        for channel in (both.coord, both.etcd):
            with pytest.raises(grpc.RpcError) as caught:
                _call(channel, rpcs.MAINTENANCE_HASH_KV.path, pb.HashKVRequest(revision=revision))
            error: Any = caught.value
            refusals.append((error.code(), error.details()))
        assert refusals[0] == refusals[1]
    negative = pb.HashKVRequest(revision=-3)
    ours, theirs = (
        pb.HashKVResponse.FromString(_call(channel, rpcs.MAINTENANCE_HASH_KV.path, negative))
        for channel in (both.coord, both.etcd)
    )
    assert ours.hash == theirs.hash
    at_it = pb.HashKVRequest(revision=compacted)
    ours = pb.HashKVResponse.FromString(_call(both.coord, rpcs.MAINTENANCE_HASH_KV.path, at_it))
    assert ours.hash == both.model.hash_kv(compacted)
