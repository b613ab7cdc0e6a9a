"""Scripts written for etcdctl read the same words from ``coord``: both run on one server, and are compared."""

from __future__ import annotations

import re

import pytest

from tests.cli.tool import coord
from tests.support.servers import ServerProcess, etcdctl

# What differs from run to run: revisions and ids, the size of the store, times.
NUMBERS = re.compile(
    r'"(revision|create_revision|mod_revision|raftIndex|raftAppliedIndex|dbSize|dbSizeInUse|ID|id|lease|ttl)":\d+'
)
LEASE = re.compile(r"\b[0-9a-f]{16}\b")
SIZES = re.compile(r", [\d.]+ [kMG]?B,")
INDICES = re.compile(r", \d+, \d+, $", re.MULTILINE)
REMAINING = re.compile(r"remaining\(\d+s\)")
TOOK = re.compile(r"\d+(\.\d+)?(ms|µs|s)\b")

FILL: tuple[tuple[str, ...], ...] = (
    ("put", "k1", "one"),
    ("put", "k2", "two"),
    ("put", "k3", "<three> & more"),
    ("put", "a", ""),
)

# Name, and the commands; `{lease}` stands for a lease that was granted before.
SCRIPTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "put": (
        ("put", "new", "1"),
        ("put", "new", "2", "--prev-kv"),
        ("put", "new", "3", "--prev-kv=true"),
        ("put", "new", "--ignore-value", "--prev-kv"),
        ("put", "new", "x", "--lease={lease}"),
        ("put", "new", "y", "--ignore-lease", "--prev-kv"),
        ("put", "--", "new", "-v"),
        ("get", "new"),
    ),
    "get": (
        ("get", "k1"),
        ("get", "missing"),
        ("get", "k1", "k3"),
        ("get", "k", "--prefix"),
        ("get", "--prefix=true", "k"),
        ("get", "k", "--prefix=false"),
        ("get", "", "--prefix"),
        ("get", "k2", "--from-key"),
        ("get", "", "--from-key"),
        ("get", "k", "--prefix", "--limit=2"),
        ("get", "k", "--prefix", "--limit", "2", "--order=DESCEND"),
        ("get", "", "--prefix", "--sort-by=VALUE"),
        ("get", "", "--prefix", "--sort-by=create", "--order=descend"),
        ("get", "", "--prefix", "--sort-by=MODIFY", "--keys-only"),
        ("get", "", "--prefix", "--sort-by=VERSION", "--order=ASCEND"),
        ("get", "k", "--prefix", "--keys-only"),
        ("get", "k", "--prefix", "--print-value-only"),
        ("get", "k1", "--consistency=s"),
        ("get", "k", "--prefix", "--hex"),
    ),
    "del": (
        ("del", "missing"),
        ("del", "k1", "--prev-kv"),
        ("del", "k2", "k9"),
        ("put", "x1", "1"),
        ("put", "x2", "2"),
        ("del", "x", "--prefix", "--prev-kv"),
        ("put", "z", "1"),
        ("del", "z", "--from-key"),
        ("get", "", "--prefix"),
    ),
    "lease": (
        ("lease", "grant", "60"),
        ("lease", "timetolive", "{lease}"),
        ("put", "leased1", "v", "--lease={lease}"),
        ("put", "leased2", "v", "--lease={lease}"),
        ("lease", "timetolive", "{lease}", "--keys"),
        ("lease", "keep-alive", "{lease}", "--once"),
        ("lease", "revoke", "{lease}"),
        ("get", "leased", "--prefix"),
        ("lease", "timetolive", "{lease}"),
        ("lease", "timetolive", "{lease}", "--keys"),
    ),
    "cluster": (
        ("endpoint", "status"),
        ("endpoint", "health"),
        ("member", "list"),
    ),
}


def normal(text: str) -> str:
    """Text with what may differ replaced."""
    text = NUMBERS.sub(r'"\1":N', text)
    text = INDICES.sub(", N, N, ", REMAINING.sub("remaining(N)", text))
    text = SIZES.sub(", SIZE,", text)  # the backend is written in the background
    return TOOK.sub("T", LEASE.sub("LEASE", text))


def play(
    server: ServerProcess, tool: str, script: tuple[tuple[str, ...], ...], *flags: str
) -> list[tuple[int, str]]:
    """Run a script from a fresh start with one tool: exit code and output of each command."""
    endpoint = server.endpoint
    assert etcdctl(endpoint, "del", "", "--prefix").returncode == 0
    for command in FILL:
        assert etcdctl(endpoint, *command).returncode == 0
    lease = etcdctl(endpoint, "lease", "grant", "600").stdout.split()[1]
    run = coord if tool == "coord" else etcdctl
    outcomes: list[tuple[int, str]] = []
    for command in script:
        words = [word.format(lease=lease) for word in command]
        done = run(endpoint, *words[:1], *flags, *words[1:])
        outcomes.append((done.returncode, normal(done.stdout)))
    return outcomes


@pytest.mark.etcd
@pytest.mark.processes
@pytest.mark.parametrize("output", ["simple", pytest.param("json", marks=pytest.mark.later)])
@pytest.mark.parametrize("name", SCRIPTS)
def test_same_output(shared_coord_server: ServerProcess, name: str, output: str) -> None:
    script = SCRIPTS[name]
    flags = () if output == "simple" else ("-w", "json")
    theirs = play(shared_coord_server, "etcdctl", script, *flags)
    ours = play(shared_coord_server, "coord", script, *flags)
    assert list(zip(script, ours, strict=True)) == list(zip(script, theirs, strict=True))


TXNS = {
    "success": 'mod("k1") > "0"\n\nput k1 "new value"\nget k1\ndel k2 --prev-kv\n\nget k3\n\n',
    "failure": 'val("k1") = "other"\n\nput k1 x\n\nget k --prefix\nput k9 y\n\n',
    "no comparison": "\nput k1 x\n\n\n",
    "all targets": (
        # Not lease: etcdctl 3.5.1 panics over it.
        'ver("k1") = "1"\nc("k1") > "0"\nm("k1") > "0"\nvalue("k1") != "x"\n'
        "\nget k1 --keys-only\n\n\n"
    ),
    "escapes": '\nput k1 "a \\"quoted\\" word"\nget k1\n\n\n',
}


@pytest.mark.etcd
@pytest.mark.processes
@pytest.mark.parametrize("flags", [(), ("-w", "json")], ids=["simple", "json"])
@pytest.mark.parametrize("name", TXNS)
def test_same_txn(shared_coord_server: ServerProcess, name: str, flags: tuple[str, ...]) -> None:
    endpoint = shared_coord_server.endpoint
    outcomes: list[tuple[int, str]] = []
    for run in (etcdctl, coord):
        etcdctl(endpoint, "del", "", "--prefix")
        for command in FILL:
            etcdctl(endpoint, *command)
        done = run(endpoint, "txn", *flags, stdin=TXNS[name])
        outcomes.append((done.returncode, normal(done.stdout)))
    assert outcomes[0] == outcomes[1]
    assert outcomes[0][0] == 0


FAILURES: dict[str, tuple[str, ...]] = {
    "key missing": ("get",),
    "prefix and from-key": ("get", "k", "--prefix", "--from-key"),
    "end and prefix": ("get", "k", "l", "--prefix"),
    "bad consistency": ("get", "k", "--consistency=x"),
    "bad order": ("get", "k", "--order=x"),
    "bad sort": ("get", "k", "--sort-by=x"),
    "future revision": ("get", "k", "--rev=99999999"),
    "put without key": ("put",),
    "value beside ignore-value": ("put", "k", "v", "--ignore-value"),
    "ignore-value of nothing": ("put", "missing", "--ignore-value"),
    "lease that is no hex": ("put", "k", "v", "--lease=zz"),
    "lease that is not there": ("put", "k", "v", "--lease=12ab"),
    "del of three": ("del", "a", "b", "c"),
    "empty key": ("get", ""),
    "ttl missing": ("lease", "grant"),
    "revoke of nothing": ("lease", "revoke", "12"),
    "renewal of nothing": ("lease", "keep-alive", "12", "--once"),
    "compaction of the future": ("compaction", "99999999"),
    "bad txn": ("txn",),
    "elect without proposal": ("elect", "name"),
    "lock without name": ("lock",),
}


@pytest.mark.etcd
@pytest.mark.processes
@pytest.mark.parametrize("name", FAILURES)
def test_same_failure(shared_coord_server: ServerProcess, name: str) -> None:
    theirs = etcdctl(shared_coord_server.endpoint, *FAILURES[name], stdin="nonsense\n")
    ours = coord(shared_coord_server.endpoint, *FAILURES[name], stdin="nonsense\n")
    assert (ours.returncode, ours.stdout) == (theirs.returncode, theirs.stdout)
    assert ours.returncode != 0
    assert ours.stderr.startswith("Error: ")
