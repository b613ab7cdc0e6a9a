"""Flags that make no cluster: coord-server ends with etcd's exit code and etcd's reason."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from coord_server.member_ids import cluster_id, member_id
from tests.support.servers import (
    clean_environment,
    coord_server_command,
    etcd_binary,
    etcdctl,
    free_port,
)

pytestmark = [pytest.mark.etcd, pytest.mark.processes]

OWN = "http://127.0.0.1:42380"
ADVERTISED = f"--initial-advertise-peer-urls={OWN}"

# Flags, and what etcd adds to the reason and we leave out.
REFUSED = [
    (["--name=w", f"--initial-cluster=a={OWN}", ADVERTISED], ""),
    (["--name=a", "--initial-cluster=a=http://127.0.0.1:42381", ADVERTISED], " ("),
    (["--name=a", f"--initial-cluster=a={OWN},a=http://127.0.0.1:42381", ADVERTISED], " ("),
    (["--name=a", f"--initial-cluster=a={OWN},b={OWN}", ADVERTISED], ""),
    (["--name=a", "--initial-cluster=foo", ADVERTISED], ""),
    (["--name=a", f"--initial-cluster=a={OWN}/x", ADVERTISED], ""),
    (["--name=a", f"--initial-cluster=a={OWN}", ADVERTISED, "--discovery-srv=x.invalid"], ""),
    (
        [
            "--name=a",
            f"--initial-cluster=a={OWN},b=http://127.0.0.1:1",
            ADVERTISED,
            "--initial-cluster-state=existing",
        ],
        "",
    ),
    (["--name=a", "--heartbeat-interval=300", ADVERTISED], ""),
]


def reason(command: list[str], directory: Path) -> tuple[int, str]:
    """Run a program that ends by itself; return its exit code and the error it reports last."""
    directory.mkdir()
    done = subprocess.run(
        command,
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env=clean_environment(),
    )
    last = done.stderr.strip().splitlines()[-1]
    if last.startswith("coord-server: "):
        return done.returncode, last.removeprefix("coord-server: ").strip()
    return done.returncode, json.loads(last)["error"].strip()


@pytest.mark.parametrize(("flags", "more"), REFUSED)
def test_the_same_exit_code_and_reason(tmp_path: Path, flags: list[str], more: str) -> None:
    client = f"http://127.0.0.1:{free_port()}"
    common = [f"--listen-client-urls={client}", f"--advertise-client-urls={client}", *flags]
    theirs = reason([etcd_binary("etcd"), "--logger=zap", *common], tmp_path / "etcd")
    ours = reason(coord_server_command(*common), tmp_path / "ours")
    assert ours[0] == theirs[0] == 1
    assert ours[1] == (theirs[1].partition(more)[0] if more else theirs[1])


def test_a_state_that_is_none(tmp_path: Path) -> None:
    flag = "--initial-cluster-state=blah"
    theirs = subprocess.run([etcd_binary("etcd"), flag], capture_output=True, check=False)
    ours = subprocess.run(coord_server_command(flag), capture_output=True, check=False)
    assert ours.returncode == theirs.returncode == 2


def test_ids_are_those_of_a_real_cluster(tmp_path: Path) -> None:
    peers = [f"http://127.0.0.1:{free_port()}" for _ in range(3)]
    clients = [f"http://127.0.0.1:{free_port()}" for _ in range(3)]
    cluster = ",".join(f"m{number}={url}" for number, url in enumerate(peers))
    started: list[subprocess.Popen[bytes]] = []
    try:
        for number, (peer, client) in enumerate(zip(peers, clients, strict=True)):
            command = [
                etcd_binary("etcd"),
                f"--name=m{number}",
                f"--data-dir={tmp_path / str(number)}",
                f"--listen-client-urls={client}",
                f"--advertise-client-urls={client}",
                f"--listen-peer-urls={peer}",
                f"--initial-advertise-peer-urls={peer}",
                f"--initial-cluster={cluster}",
                "--initial-cluster-token=ours",
                "--unsafe-no-fsync",
                "--log-outputs=/dev/null",
            ]
            started.append(subprocess.Popen(command, env=clean_environment()))
        listed = etcdctl(clients[0], "member", "list", "--write-out=json", "--command-timeout=20s")
        answer = json.loads(listed.stdout)
    finally:
        for process in started:
            process.terminate()
            process.wait(timeout=20)
    ids = {f"m{number}": member_id([url], "ours") for number, url in enumerate(peers)}
    assert {m["name"]: m["ID"] for m in answer["members"]} == ids
    assert answer["header"]["cluster_id"] == cluster_id(ids.values())
