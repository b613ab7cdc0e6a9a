"""Servers that are processes, and die as processes do."""

from __future__ import annotations

import asyncio
import signal

import pytest

import coord
from recipes.grpc_failover import SERVICE, ask, channel
from tests.recipes.programs import end, line_of, start
from tests.support.servers import ServerProcess


@pytest.mark.processes
async def test_no_call_fails_when_a_server_is_killed(coord_server: ServerProcess) -> None:
    endpoint = coord_server.endpoint
    servers = [start("-m", "recipes.grpc_failover", "serve", endpoint=endpoint) for _ in range(2)]
    try:
        for server in servers:
            assert await asyncio.to_thread(line_of, server) == "serving"
        async with coord.connect(endpoint) as client, channel(client, servers=2) as over:
            assert (await ask(over, 10)).total() == 10
            servers[0].send_signal(signal.SIGSTOP)
            # In turns, so half of them are with the one that does not answer any more.
            waiting = {asyncio.ensure_future(ask(over, 1)) for _ in range(6)}
            while len(waiting) > 3:
                _, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            servers[0].kill()
            dead = servers[0].pid
            await asyncio.to_thread(servers[0].wait)
            for call in waiting:
                assert (await call).total() == 1
            assert (await ask(over, 50)).total() == 50
            # Nobody has told the registry; the end of its lease does, here before its time.
            async with client.registry(SERVICE).discover() as view:
                (died,) = [each for each in view.instances() if each.metadata["pid"] == dead]
                key = await client.get(died.key)
                assert key is not None
                await client.lease_revoke(key.lease)
                servers[1].terminate()
                async for instances in view.watch():
                    if [each.health for each in instances] == ["draining"]:
                        break
    finally:
        end(*servers)
