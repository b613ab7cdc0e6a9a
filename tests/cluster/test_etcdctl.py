"""etcdctl against three members, and against three members of etcd: the same words and the same outcome."""

from __future__ import annotations

import asyncio
import contextlib
import re
import subprocess
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

import pytest

from coord.testing.chaos import Cluster, free_ports, wait_until
from tests.support.servers import clean_environment, etcd_binary

pytestmark = [pytest.mark.processes, pytest.mark.timeout(240)]
Done = subprocess.CompletedProcess[str]


async def ctl(endpoints: str, *words: str) -> Done:
    process = await asyncio.create_subprocess_exec(
        *(etcd_binary("etcdctl"), f"--endpoints={endpoints}", *words),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=clean_environment({"ETCDCTL_API": "3"}),
    )
    async with asyncio.timeout(60):
        out, errors = await process.communicate()
    code = process.returncode
    assert code is not None
    return subprocess.CompletedProcess(words, code, out.decode(), errors.decode())


async def said(endpoints: str, *words: str) -> list[str]:
    """The output of a command that succeeds."""
    done = await ctl(endpoints, *words)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


async def ids(endpoints: str) -> dict[str, str]:
    """Member ids by name; those that have not started under an empty name."""
    rows = [line.split(", ") for line in await said(endpoints, "member", "list")]
    return {row[2]: row[0] for row in rows}


async def leader_of(endpoints: str) -> str:
    """The leader's id."""
    rows = [line.split(", ") for line in await said(endpoints, "endpoint", "status")]
    (leader,) = [row[1] for row in rows if row[4] == "true"]
    return leader


def shape(text: str) -> str:
    """What a script sees of an output: ids, numbers and sizes of this very run left out."""
    text = re.sub(r"127\.0\.0\.1:\d+", "ADDRESS", text)
    # Padded to 16 digits.
    text = re.sub(r" *\b[0-9a-f]{12,16}\b", " ID", text)
    text = re.sub(r"\b\d+(\.\d+)?(µs|ms|s)\b", "TIME", text)
    text = re.sub(r"\b\d+(\.\d+)? [kM]?B\b", "SIZE", text)
    return re.sub(r"\b\d+(\.\d+)*\b", "N", text)


@dataclass
class Site:
    """Three members of either kind, and the URL of a peer that does not exist yet."""

    endpoints: str
    kind: str


@contextlib.asynccontextmanager
async def three_etcds(directory: Path) -> AsyncGenerator[Site]:
    ports = free_ports(6)
    urls = [f"http://127.0.0.1:{port}" for port in ports]
    named = ",".join(f"m{n}={urls[2 * n - 1]}" for n in (1, 2, 3))
    processes: list[asyncio.subprocess.Process] = []
    try:
        for number in (1, 2, 3):
            client, peer = urls[2 * number - 2], urls[2 * number - 1]
            with (directory / f"etcd{number}.log").open("wb") as log:
                processes.append(
                    await asyncio.create_subprocess_exec(
                        *(etcd_binary("etcd"), f"--name=m{number}", "--logger=zap"),
                        f"--data-dir={directory}/etcd{number}",
                        *(f"--listen-client-urls={client}", f"--advertise-client-urls={client}"),
                        *(f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}"),
                        *(f"--initial-cluster={named}", "--initial-cluster-token=chaos"),
                        stdin=asyncio.subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        env=clean_environment(),
                        start_new_session=True,
                    )
                )
        endpoints = ",".join(f"127.0.0.1:{port}" for port in ports[::2])

        async def healthy() -> bool:
            return (await ctl(endpoints, "endpoint", "health")).returncode == 0

        await wait_until(healthy, what="three etcds are healthy", within=60, poll_s=0.3)
        yield Site(endpoints, "etcd")
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


@contextlib.asynccontextmanager
async def site(kind: str, directory: Path) -> AsyncGenerator[Site]:
    if kind == "etcd":
        async with three_etcds(directory) as made:
            yield made
    else:
        async with Cluster(directory) as cluster:
            yield Site(cluster.endpoints, kind)


async def story(site: Site) -> list[str]:
    """What an operator does, and what it looks like."""
    seen: list[str] = []
    at = site.endpoints

    async def do(*words: str) -> Done:
        done = await ctl(at, *words)
        # The order of endpoints' answers is that of their arrival.
        lines = sorted(shape(done.stdout).splitlines()) + shape(done.stderr).splitlines()[-1:]
        seen.append(f"{shape(' '.join(words[:2]))} -> {done.returncode}: " + " | ".join(lines))
        return done

    await said(at, "put", "k", "v")
    await do("member", "list")
    await do("endpoint", "health", "--cluster")
    hashes = (await do("endpoint", "hashkv", "--cluster")).stdout.splitlines()
    assert len({line.split(", ")[1] for line in hashes}) == 1
    status = (await do("endpoint", "status", "--cluster")).stdout.splitlines()
    assert [line.split(", ")[4] for line in status].count("true") == 1
    members = await ids(at)
    old = await leader_of(at)
    new = next(number for number in members.values() if number != old)
    moved = await do("move-leader", new)
    assert moved.stdout == f"Leadership transferred from {old} to {new}\n"
    assert await leader_of(at) == new
    await do("move-leader", "deadbeef")
    peer = f"http://127.0.0.1:{free_ports(1)[0]}"

    async def may_add() -> bool:
        done = await ctl(at, "member", "add", "m4", f"--peer-urls={peer}", "--learner")
        return done.returncode == 0

    # Refused until all members have been in touch for five seconds.
    await wait_until(may_add, what="a learner may be added", within=40, poll_s=0.5)
    learner = (await ids(at))[""]
    await do("member", "list")
    await do("member", "promote", learner)
    # An id is made of the URL and the second: within the same one it is the id that exists already.
    await asyncio.sleep(1.1)
    await do("member", "add", "m5", f"--peer-urls={peer}")
    other = f"http://127.0.0.1:{free_ports(1)[0]}"
    await do("member", "update", learner, f"--peer-urls={other}")
    assert other in "".join(await said(at, "member", "list"))
    removed = await do("member", "remove", learner)
    assert removed.returncode == 0
    await do("member", "remove", learner)
    await do("member", "list")
    gone = next(number for number in members.values() if number != new)
    # Of one that stays: who is removed may stop before it has answered.
    lines = await said(at, "endpoint", "status")
    at = ",".join(line.split(", ")[0] for line in lines if line.split(", ")[1] != gone)
    await do("member", "remove", gone)
    assert sorted((await ids(at)).values()) == sorted(set(members.values()) - {gone})
    return seen


def without_release(lines: list[str]) -> list[str]:
    # Sizes are those of another store, and an index counts other entries.
    return [line for line in lines if not line.startswith("endpoint status")]


async def test_a_story_of_an_operator_reads_the_same(tmp_path: Path) -> None:
    stories: dict[str, list[str]] = {}
    for kind in ("coord-server", "etcd"):
        async with site(kind, tmp_path) as made:
            stories[kind] = await story(made)
    assert without_release(stories["coord-server"]) == without_release(stories["etcd"])


async def test_member_add_shows_how_to_start_it(cluster: Cluster) -> None:
    at = cluster.endpoints
    peer = f"http://127.0.0.1:{free_ports(1)[0]}"
    lines: list[str] = []

    async def added() -> bool:
        done = await ctl(at, "member", "add", "m4", f"--peer-urls={peer}")
        lines[:] = done.stdout.splitlines()
        return done.returncode == 0

    await wait_until(added, what="a member may be added", within=40, poll_s=0.5)
    assert re.fullmatch(r"Member +[0-9a-f]+ added to cluster +[0-9a-f]+", lines[0])
    told = dict(line.split("=", 1) for line in lines[2:])
    assert told["ETCD_NAME"] == '"m4"'
    assert told["ETCD_INITIAL_CLUSTER_STATE"] == '"existing"'
    founders = set(told["ETCD_INITIAL_CLUSTER"].strip('"').split(","))
    assert founders == {
        f"m4={peer}",
        *(f"{member.name}={member.peer_url}" for member in cluster.members.values()),
    }
