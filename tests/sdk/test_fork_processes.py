"""Processes of ``multiprocessing`` that are forked beside a client in use: how they end, and what the parent notices."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from coord.core import Carrier, Placement
from tests.sdk.conftest import CARRIERS
from tests.support.servers import ServerProcess, clean_environment

PROGRAM = """
import asyncio, json, multiprocessing, os, sys
import coord, coord.sync

endpoint, prefix, transport, runtime, end = sys.argv[1:]
told, tell = multiprocessing.get_context("fork").Pipe(duplex=False)

async def refused(call):
    try:
        async with asyncio.timeout(5):
            await call
    except coord.ForkedError:
        return True
    return False

async def use(client, session, grant, watch):
    answers = [
        await refused(client.get(prefix)),
        await refused(session.close()),
        await refused(grant.release()),
        await refused(anext(watch)),
    ]
    await client.close()
    # What gRPC has made in the parent does not work here, for nobody.
    async with client.after_fork() if transport == "native" else coord.connect(endpoint) as fresh:
        await fresh.put(prefix + "w", "from the child")
    tell.send(answers)
    if end == "raises":
        raise LookupError("uncaught in the child")

def child(*things):
    asyncio.run(use(*things))
    if end == "exits":
        sys.exit(7)

async def parent():
    async with (
        coord.connect(endpoint, transport=transport, runtime=runtime) as client,
        client.session(ttl=3) as session,
        client.watch(prefix + "w") as watch,
    ):
        grant = await client.mutex(prefix + "m", session=session).acquire()
        process = multiprocessing.get_context("fork").Process(target=child, args=(client, session, grant, watch))
        process.start()
        tell.close()
        await asyncio.to_thread(process.join)
        answers = told.recv() if told.poll() else None
        event = await anext(watch)
        await asyncio.sleep(1.2 * session.ttl)  # past what the last renewal before the child was worth
        session.check()
        grant.check()
        put = await client.txn().when(grant.guard()).then(coord.op.put(prefix, "x")).commit()
        holder = await client.mutex(prefix + "m").holder()
        print(json.dumps({
            "refused": answers,
            "code": process.exitcode,
            "event": event.value.decode(),
            "still holds": put.succeeded and holder.token == grant.token,
        }))

asyncio.run(parent())
"""
# How the child's function ends, and its process's exit code.
ENDS = {"returns": 0, "raises": 1, "exits": 7}


def run(program: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a program, for a minute at most: a child that hangs keeps its parent."""
    return subprocess.run(
        [
            sys.executable,
            *("-W", "error::ResourceWarning"),
            # Python 3.12 and newer warn of any fork beside threads; what then happens is what we test.
            *("-W", "ignore:This process:DeprecationWarning"),
            *("-c", program, *words),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        # Otherwise gRPC starts threads of its own in the child, which now and then crash it (docs/guides).
        env=clean_environment({"GRPC_ENABLE_FORK_SUPPORT": "0"}),
    )


@pytest.mark.processes
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("transport", CARRIERS)
@pytest.mark.parametrize("runtime", ["thread", "inline"])
def test_a_forked_process(
    shared_coord_server: ServerProcess,
    runtime: Placement,
    transport: Carrier,
    end: str,
    prefix: str,
) -> None:
    done = run(PROGRAM, shared_coord_server.endpoint, prefix, transport, runtime, end)
    assert done.stdout, done.stderr
    assert json.loads(done.stdout) == {
        "refused": [True] * 4,
        "code": ENDS[end],
        "event": "from the child",
        "still holds": True,
    }
    if end == "raises":
        assert done.stderr.rstrip().endswith("LookupError: uncaught in the child")
        assert "coord" not in done.stderr.replace("coord/", "")
    else:
        assert done.stderr == ""


FALLS_OFF_ITS_END = """
import asyncio, os, sys
import coord, coord.sync

endpoint, prefix, end = sys.argv[1:]
client = coord.sync.connect(endpoint)
grant = client.mutex(prefix + "m").acquire()
watch = client.watch(prefix)
watch.__enter__()

async def use():
    try:
        client.get("k")
    except coord.ForkedError:
        if end == "raises":
            raise LookupError("uncaught in the child") from None

child = os.fork()
if child == 0:
    asyncio.run(use())  # and the whole interpreter ends after it, with all that it inherited
else:
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == (1 if end == "raises" else 0)
    grant.check()
    assert client.mutex(prefix + "m").holder().token == grant.token
    watch.close()
    client.close()
    print("parent unharmed")
"""


@pytest.mark.processes
@pytest.mark.parametrize("end", ["returns", "raises"])
def test_a_forked_interpreter_ends_with_what_it_inherited(
    shared_coord_server: ServerProcess, end: str, prefix: str
) -> None:
    done = run(FALLS_OFF_ITS_END, shared_coord_server.endpoint, prefix, end)
    assert done.stdout == "parent unharmed\n", done.stderr
    if end == "raises":
        assert done.stderr.rstrip().endswith("LookupError: uncaught in the child")
    else:
        assert done.stderr == ""
