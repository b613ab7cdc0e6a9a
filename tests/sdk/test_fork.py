"""A forked child: every inherited client refuses, the parent's goes on, a fresh one works."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

PROGRAM = """
import asyncio, json, os, sys, warnings
import coord

endpoint, prefix, runtime = sys.argv[1:]
told = {}

async def use(client, watch):
    for name, call in {
        "get": lambda: client.get(prefix),
        "put": lambda: client.put(prefix, "child"),
        "watch": lambda: client.watch(prefix).__aenter__(),
        "lease": lambda: client.lease_grant(5),
        "read": lambda: anext(watch),
    }.items():
        try:
            await call()
        except coord.ForkedError:
            told[name] = "ForkedError"
    watch.close()
    await client.close()
    async with client.after_fork() as fresh:
        await fresh.put(prefix + "child", "x")
        told["fresh"] = fresh.endpoints == client.endpoints

async def parent():
    async with coord.connect(endpoint, runtime=runtime) as client:
        await client.put(prefix, "before")
        async with client.watch(prefix, prefix=True) as watch:
            r, w = os.pipe()
            pid = os.fork()
            if pid == 0:
                # This copy of the running loop belongs to the parent: a child starts its own.
                try:
                    asyncio._set_running_loop(None)
                    asyncio.run(use(client, watch))
                    os.write(w, json.dumps(told).encode())
                finally:
                    os._exit(0)
            os.close(w)
            with open(r) as pipe:
                answer = await asyncio.to_thread(pipe.read)
            os.waitpid(pid, 0)
            event = await anext(watch)
            await client.put(prefix, "after")
            print(json.dumps({"child": json.loads(answer), "parent": event.key.decode()}))

asyncio.run(parent())
"""


@pytest.mark.processes
@pytest.mark.parametrize("runtime", ["thread", "inline"])
def test_a_forked_child(endpoint: str, runtime: str, prefix: str) -> None:
    done = subprocess.run(
        [
            sys.executable,
            *("-W", "error::ResourceWarning"),
            # Python 3.12 and newer warn of any fork beside threads; what then happens is what we test.
            *("-W", "ignore:This process:DeprecationWarning"),
            *("-c", PROGRAM, endpoint, prefix, runtime),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stderr == ""
    told = json.loads(done.stdout)
    refused = dict.fromkeys(("get", "put", "watch", "lease", "read"), "ForkedError")
    assert told == {"child": {**refused, "fresh": True}, "parent": prefix + "child"}
