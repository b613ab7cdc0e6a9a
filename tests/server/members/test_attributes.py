"""A member publishes its name and client URLs, and does not give up before they are known."""

from __future__ import annotations

import asyncio

from coord.rpc.status import RpcError
from coord.wire import fast
from coord.wire import rpc_pb2 as pb
from coord_server import errors
from coord_server.apply import Applier
from coord_server.attributes import is_published, publish
from coord_server.errors import ErrorSpec, Refused
from coord_server.member_records import member_records
from coord_server.ops import encode_batch
from coord_server.raft import ChangeKind, ChangeStep, ConfigChange, NodeId
from coord_server.storage.backend import Batch, Bucket
from coord_server.storage.memory_backend import MemoryBackend
from tests.server.members.surroundings import quiet

OWN = pb.Member(ID=2, name="two", clientURLs=["http://c:1"])


class Log:
    """A replica that refuses what it is told to, and then applies what it is given."""

    def __init__(self, *troubles: RpcError) -> None:
        backend = MemoryBackend()
        batch = Batch()
        founders = [pb.Member(ID=n, name=f"n{n}", peerURLs=[f"http://m{n}:1"]) for n in (1, 2)]
        for key, value in member_records(founders):
            batch.put(Bucket.MEMBERS, key, value)
        backend.write(batch)
        self.applier = Applier(backend, fast.HeaderStamp(1, 2))
        self.troubles = list(troubles)
        self.proposals = 0

    async def submit(self, kind: int, payload: bytes) -> bytes:
        self.proposals += 1
        if self.troubles:
            raise self.troubles.pop(0)
        applier = self.applier
        data = encode_batch([(kind, payload)])
        (result,) = applier.apply(applier.applied_index + 1, 1, data, answers=True).results
        if isinstance(result, ErrorSpec):
            raise Refused(result)
        return result


async def told(log: Log) -> tuple[bool, list[str]]:
    out, lines = quiet()
    members = log.applier.members
    async with asyncio.timeout(10):
        done = await publish(log, members, OWN, cluster_id=1, log=out, retry_s=0.001)
    return done, [line["msg"] for line in lines]


async def test_name_and_urls_go_through_the_log() -> None:
    log = Log()
    assert not is_published(log.applier.members, OWN)
    assert await told(log) == (True, ["published local member to cluster through raft"])
    assert is_published(log.applier.members, OWN)
    known = log.applier.members.get(2)
    assert known is not None
    assert list(known.peerURLs) == ["http://m2:1"]


async def test_what_is_known_is_not_proposed_again() -> None:
    log = Log()
    await told(log)
    assert (await told(log))[0]
    assert log.proposals == 1


async def test_it_is_tried_until_it_is_applied() -> None:
    log = Log(Refused(errors.TIMEOUT), Refused(errors.NO_LEADER), Refused(errors.MEMBER_NOT_FOUND))
    done, messages = await told(log)
    assert done
    assert messages == [
        *["failed to publish local member to cluster through raft"] * 3,
        "published local member to cluster through raft",
    ]


async def test_the_end_of_the_server_or_of_the_membership_ends_it() -> None:
    assert await told(Log(Refused(errors.STOPPED))) == (
        False,
        ["stopped publish because server is stopping"],
    )
    log = Log()
    removal = ConfigChange((ChangeStep(ChangeKind.REMOVE, NodeId(2)),))
    assert log.applier.members.apply_change(removal, b"") is None
    assert await told(log) == (False, [])
    assert log.proposals == 0
