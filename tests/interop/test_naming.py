"""Services that ``coord`` and Go's ``naming/endpoints`` list together, and that Go dials by etcd's gRPC resolver.

``COORD_INTEROP_ROUNDS`` (default 6) makes longer runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

import grpc.aio
import pytest

import coord
import coord.grpc
from tests.interop.contest import ROUNDS
from tests.interop.gopeers import BUILD_WITHIN_S, Failed, GoPeer, go_peer

pytestmark = [
    pytest.mark.etcd,
    pytest.mark.processes,
    pytest.mark.timeout(BUILD_WITHIN_S + ROUNDS * 5),
]
WITHIN_S = 60.0


async def listed(peer: GoPeer, service: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(await peer.do("list", service))
    return found


async def test_go_lists_and_follows_our_instances(
    client: coord.Client, endpoint: str, name: str
) -> None:
    key = f"{name}/10.0.0.1:80"
    async with go_peer(endpoint) as peer:
        await peer.do("follow", name)
        for number in range(ROUNDS):
            async with client.registry(name).register(
                "10.0.0.1:80", weight=3, zone="north", metadata={"number": number}
            ) as registration:
                (news,) = json.loads(await peer.do("news"))
                assert (news["Op"], news["Key"]) == (0, key)
                assert news["Endpoint"]["Addr"] == "10.0.0.1:80"
                told = news["Endpoint"]["Metadata"]
                assert (told["number"], told["weight"], told["zone"]) == (number, 3, "north")
                assert await listed(peer, name) == {key: news["Endpoint"]}
                await registration.update(weight=5)
                (news,) = json.loads(await peer.do("news"))
                assert news["Endpoint"]["Metadata"]["weight"] == 5
            (news,) = json.loads(await peer.do("news"))
            assert (news["Op"], news["Key"]) == (1, key)
        assert await listed(peer, name) == {}


async def test_we_list_and_follow_gos_instances(
    client: coord.Client, endpoint: str, name: str
) -> None:
    async with go_peer(endpoint) as peer, client.registry(name).discover() as view:
        for number in range(ROUNDS):
            told = {"weight": 2, "zone": "south", "number": number}
            text = json.dumps(told, separators=(",", ":"))
            await peer.do("add-endpoint", name, f"{name}/go-1", "10.0.0.2:80", text)
            await peer.do("add-endpoint", name, f"{name}/go-2", "10.0.0.3:80", "null")
            one, two = sorted(
                await view.wait_for(2, timeout=WITHIN_S), key=lambda instance: instance.addr
            )
            assert (one.id, one.addr, one.weight, one.zone) == ("go-1", "10.0.0.2:80", 2, "south")
            assert one.metadata == {"number": number}
            assert (two.id, two.addr, two.weight, two.metadata) == ("go-2", "10.0.0.3:80", 1, {})
            assert {view.pick().addr, view.pick().addr, view.pick().addr} == {one.addr, two.addr}
            for which in ("go-1", "go-2"):
                await peer.do("delete-endpoint", name, f"{name}/{which}")
            async with asyncio.timeout(WITHIN_S):
                await view_is_empty(client, name, view)


async def view_is_empty(client: coord.Client, name: str, view: coord.ServiceView) -> None:
    async for instances in view.watch():
        if not instances:
            break
    assert await client.count(name + "/") == 0


class Instance:
    """A gRPC server of ours with a health service, listed while it serves."""

    def __init__(self, client: coord.Client, service: str) -> None:
        self._client = client
        self._service = service
        self._server = grpc.aio.server()
        self.addr = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def listed(self) -> contextlib.AbstractAsyncContextManager[coord.Registration]:
        opening = self._client.registry(self._service).register(self.addr)
        return coord.grpc.register(self._server, opening, drain=0, grace=0, health_services=[""])


async def test_go_dials_our_instances_by_etcds_resolver(
    client: coord.Client, endpoint: str, name: str
) -> None:
    async with go_peer(endpoint) as peer, contextlib.AsyncExitStack() as last:
        old = Instance(client, name)
        leaves = await last.enter_async_context(contextlib.AsyncExitStack())
        await leaves.enter_async_context(old.listed())
        await peer.do("dial", name, "pick_first")
        assert await peer.do("ask", 1) == old.addr
        for _ in range(max(1, ROUNDS // 6)):
            new = Instance(client, name)
            comes = await last.enter_async_context(contextlib.AsyncExitStack())
            await comes.enter_async_context(new.listed())
            await leaves.aclose()
            assert await peer.do("ask", 1) == new.addr
            leaves = comes


@pytest.mark.parametrize("metadata", ["null", '"text"', '{"weight":1}'])
async def test_old_grpc_for_go_cannot_balance_over_metadata_that_is_an_object(
    client: coord.Client, endpoint: str, name: str, metadata: str
) -> None:
    """grpc-go 1.33.3 looks addresses up in a map, their metadata with them; the process ends if these cannot be.

    So it is with entries of Go's own, and with ours, whose metadata is always an object.
    """
    async with go_peer(endpoint) as peer, contextlib.AsyncExitStack() as stack:
        # Not below the name, nor beside it: Go reads every key that begins with it.
        servers = [Instance(client, "ours/" + name), Instance(client, "ours/" + name)]
        for number, each in enumerate(servers):
            await stack.enter_async_context(each.listed())
            await peer.do("add-endpoint", name, f"{name}/{number}", each.addr, metadata)
        await peer.do("dial", name, "round_robin")
        if metadata.startswith("{"):
            with pytest.raises(Failed):
                await peer.do("ask", 2)
        else:
            assert (await peer.do("ask", 2)).split() == sorted(each.addr for each in servers)
