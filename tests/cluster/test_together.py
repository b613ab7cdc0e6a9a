"""Three members come up and are one store: what one was told, all know."""

from __future__ import annotations

import pytest

import coord
from coord.testing.chaos import Cluster, call
from coord.wire import methods, rpc_pb2

pytestmark = [pytest.mark.processes, pytest.mark.timeout(120)]


async def members_of(endpoint: str) -> rpc_pb2.MemberListResponse:
    request = rpc_pb2.MemberListRequest(linearizable=True)
    return await call(endpoint, methods.CLUSTER_MEMBER_LIST, request)


async def test_three_members_agree_on_everything(cluster: Cluster) -> None:
    leader = await cluster.leader()
    lists = [await members_of(member.endpoint) for member in cluster.members.values()]
    assert [list(each.members) for each in lists] == [list(lists[0].members)] * 3
    assert {each.header.cluster_id for each in lists} == {lists[0].header.cluster_id}
    by_name = {each.name: each for each in lists[0].members}
    assert sorted(by_name) == ["m1", "m2", "m3"]
    for name, member in cluster.members.items():
        assert member.member_id == by_name[name].ID
        assert list(by_name[name].peerURLs) == [member.peer_url]
        assert list(by_name[name].clientURLs) == [member.client_url]

    for number, member in enumerate(cluster.members.values()):
        async with coord.connect(member.endpoint) as client:
            await client.put(f"by/{member.name}", str(number))
            for other in cluster.others(member):
                async with coord.connect(other.endpoint) as there:
                    found = await there.get(f"by/{member.name}")
                    assert found is not None
                    assert found.value == str(number).encode()
    hashes = await cluster.hashes()
    assert len(hashes) == 3
    assert len(set(hashes.values())) == 1
    assert await cluster.leader() is leader
