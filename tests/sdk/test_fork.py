"""A forked child: every inherited client refuses, the parent's goes on, a fresh one works."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

PROGRAM = """
import asyncio, json, os, sys, warnings
import coord

endpoint, prefix, runtime = sys.argv[1:]
told = {}

async def batch(client):
    try:
        async with client.batch() as batch:
            written = batch.put(prefix, "child")
    except coord.BatchFailed:
        written.result()

async def use(client, watch, view):
    for name, call in {
        "get": lambda: client.get(prefix),
        "put": lambda: client.put(prefix, "child"),
        "watch": lambda: client.watch(prefix).__aenter__(),
        "lease": lambda: client.lease_grant(5),
        "read": lambda: anext(watch),
        "cache": lambda: client.cache(prefix=prefix).open(),
        "view": lambda: view.sync(),
        "typed": lambda: client.typed(str).put(prefix, "child"),
        "batch": lambda: batch(client),
        "stm": lambda: client.stm(lambda tx: tx.get(prefix)),
        "pages": lambda: anext(aiter(client.pages(prefix))),
        "observer": lambda: client.on_connection(print),
        "snapshot": lambda: anext(client.maintenance.snapshot()),
        "members": lambda: client.cluster.list(),
        "users": lambda: client.auth.user_list(),
        "sync": lambda: client.sync_endpoints(),
        "session": lambda: client.session().open(),
        "mutex": lambda: client.mutex(prefix).acquire(),
    }.items():
        try:
            async with asyncio.timeout(2):
                await call()
        except Exception as error:
            told[name] = type(error).__name__
    watch.close()
    view.close()
    await client.close()
    async with client.after_fork() as fresh:
        await fresh.put(prefix + "child", "x")
        told["fresh"] = fresh.endpoints == client.endpoints

async def parent():
    async with coord.connect(endpoint, runtime=runtime) as client:
        await client.put(prefix, "before")
        async with client.watch(prefix, prefix=True) as watch, client.cache(prefix=prefix) as view:
            r, w = os.pipe()
            pid = os.fork()
            if pid == 0:
                # This copy of the running loop belongs to the parent: a child starts its own.
                try:
                    asyncio._set_running_loop(None)
                    asyncio.run(use(client, watch, view))
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
    child = told.pop("child")
    assert told == {"parent": prefix + "child"}
    assert child.pop("fresh") is True
    calls = re.findall(r'^ {8}"(\w+)": lambda', PROGRAM, re.MULTILINE)
    assert set(child) == set(calls)
    assert {name: end for name, end in child.items() if end != "ForkedError"} == {}
