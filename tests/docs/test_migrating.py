"""What docs/migrating/ says of other people's clients and marks with a tick is what they do.

Each runs in a process of its own: these packages disagree about protobuf, and two of them in one process clash.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, blocks
from tests.support.servers import ServerProcess, clean_environment

pytestmark = [pytest.mark.processes, pytest.mark.timeout(90)]

PAGES = ROOT / "docs" / "migrating"

# Arguments of each program: the server's port and process id.
AETCD_LOCK = """
import asyncio, functools, sys
import aetcd

async def main():
    async with aetcd.Client(host="127.0.0.1", port=int(sys.argv[1])) as client:
        assert await client.lock(b"l", ttl=60).acquire()
        late = client.lock(b"l", ttl=60)
        late.acquire = functools.partial(late.acquire, timeout=0)  # instead of 10 seconds
        async with late:
            print("inside", await late.is_acquired())

asyncio.run(main())
"""
AETCD_WATCH = """
import asyncio, os, signal, sys
import aetcd

async def main():
    client = aetcd.Client(host="127.0.0.1", port=int(sys.argv[1]))
    watch = await client.watch(b"k")
    await client.put(b"k", b"1")
    try:
        async for event in watch:
            print(event.kv.value)
            os.kill(int(sys.argv[2]), signal.SIGKILL)
    except aetcd.ClientError:
        print("ended")

asyncio.run(main())
"""
AETCD_ASK = """
import asyncio, sys
import aetcd

async def main():
    async with aetcd.Client(host="127.0.0.1", port=int(sys.argv[1])) as client:
        print("old:", await client.lock(b"nightly", ttl=60).acquire(timeout=0))

asyncio.run(main())
"""
ETCD3_LOCK = """
import sys
import etcd3

client = etcd3.client(host="127.0.0.1", port=int(sys.argv[1]))
assert client.lock("l", ttl=60).acquire()
try:
    client.lock("l", ttl=60).acquire(timeout=5)
except TypeError as error:
    print(error)
"""
ETCD3_WATCH = """
import os, signal, sys
import etcd3

client = etcd3.client(host="127.0.0.1", port=int(sys.argv[1]))
events, cancel = client.watch("k")
client.put("k", "1")
try:
    for event in events:
        print(event.value)
        os.kill(int(sys.argv[2]), signal.SIGKILL)
except etcd3.exceptions.ConnectionFailedError:
    print("ended")
"""
ETCD3_ASK = """
import sys
import etcd3

lock = etcd3.client(host="127.0.0.1", port=int(sys.argv[1])).lock("nightly", ttl=60)
try:
    print("old:", lock.acquire(timeout=0))
except TypeError:  # how it says with today's tenacity that somebody has it
    print("old:", False)
"""
AETCD_BRIDGE = """
import asyncio, subprocess, sys
import coord
from coord import compare, op
{both}

async def main():
    async with coord.connect() as client:
        async with both(client, "nightly"):
            subprocess.run(sys.argv[3:], check=True)
        subprocess.run(sys.argv[3:], check=True)

asyncio.run(main())
"""
ETCD3_BRIDGE = """
import subprocess, sys
import coord.sync
from coord import compare, op
{both}

with coord.sync.connect() as client:
    with both(client, "nightly"):
        subprocess.run(sys.argv[3:], check=True)
    subprocess.run(sys.argv[3:], check=True)
"""

SINGLE_KEY = """
import subprocess, sys
import coord.sync

with coord.sync.connect() as client:
    lock = client.mutex(sys.argv[3], layout="single-key")
    with lock.hold(timeout=5):
        subprocess.run(sys.argv[4:], check=True)
    subprocess.run(sys.argv[4:], check=True)
    print("new:", lock.try_acquire())
"""


def python(program: str, server: ServerProcess, *more: str) -> str:
    """Run a program with the server's port and process id; return what it prints."""
    command = [sys.executable, "-W", "ignore", "-c", program, *arguments(server), *more]
    extra = {
        "COORD_ENDPOINTS": server.endpoint,
        "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
        # The generated code of etcd3 is too old for the fast one.
        "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python",
    }
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=clean_environment(extra),
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def arguments(server: ServerProcess) -> list[str]:
    return [server.endpoint.rpartition(":")[2], str(server.pid)]


def leases(server: ServerProcess) -> int:
    program = "import coord.sync\nwith coord.sync.connect() as c: print(len(c.leases()))"
    return int(python(program, server))


def test_aetcd_enters_without_the_lock_and_leaves_a_lease(coord_server: ServerProcess) -> None:
    assert python(AETCD_LOCK, coord_server) == "inside False\n"
    assert leases(coord_server) == 2


def test_etcd3_cannot_wait_and_leaves_a_lease(coord_server: ServerProcess) -> None:
    assert "delay_since_first_attempt" in python(ETCD3_LOCK, coord_server)
    assert leases(coord_server) == 2


@pytest.mark.parametrize("program", [AETCD_WATCH, ETCD3_WATCH], ids=["aetcd", "python-etcd3"])
def test_a_broken_connection_ends_their_watches(coord_server: ServerProcess, program: str) -> None:
    assert python(program, coord_server) == "b'1'\nended\n"


@pytest.mark.parametrize(
    ("page", "bridge", "ask"),
    [("aetcd.md", AETCD_BRIDGE, AETCD_ASK), ("python-etcd3.md", ETCD3_BRIDGE, ETCD3_ASK)],
    ids=["aetcd", "python-etcd3"],
)
def test_the_bridge_excludes_their_lock(
    coord_server: ServerProcess, page: str, bridge: str, ask: str
) -> None:
    program = bridge.replace("{both}", definition(PAGES / page, "both"))
    asking = [sys.executable, "-W", "ignore", "-c", ask, *arguments(coord_server)]
    assert python(program, coord_server, *asking) == "old: False\nold: True\n"


@pytest.mark.parametrize(
    ("key", "ask"),
    [("nightly", AETCD_ASK), ("/locks/nightly", ETCD3_ASK)],
    ids=["aetcd", "python-etcd3"],
)
def test_the_single_key_layout_is_their_lock(
    coord_server: ServerProcess, key: str, ask: str
) -> None:
    asking = [sys.executable, "-W", "ignore", "-c", ask, *arguments(coord_server)]
    told = python(SINGLE_KEY, coord_server, key, *asking)
    assert told == "old: False\nold: True\nnew: None\n"


def definition(page: Path, name: str) -> str:
    """Return a function as a page shows it, with the imports of its block."""
    for block in blocks(page):
        if block.language == "python" and f"def {name}(" in block.text:
            parts = ast.parse(block.text).body
            kept = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef)
            return "\n".join(ast.unparse(part) for part in parts if isinstance(part, kept))
    raise LookupError(f"{page.name} shows no {name}()")


def test_only_pages_that_are_checked_have_ticks() -> None:
    ticked = {page.name for page in PAGES.glob("*.md") if "✓" in page.read_text("utf-8")}
    assert ticked == {"aetcd.md", "python-etcd3.md"}
