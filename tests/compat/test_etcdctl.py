"""Unmodified etcdctl prints the same against coord-server and against etcd of its own release.

The commands are in ``scripts/``; a server is new for each script, so revisions are equal too.
"""

from __future__ import annotations

import difflib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.compat.etcdctl_script import Player, parse
from tests.support.servers import coord_server_process, etcd_versions, real_etcd

pytestmark = [pytest.mark.etcd, pytest.mark.processes]

VERSIONS = [
    pytest.param(version, marks=() if number == 0 else pytest.mark.later)
    for number, version in enumerate(etcd_versions())
]
SCRIPTS = sorted((Path(__file__).parent / "scripts").glob("*.txt"))


def play_on_coord(script: Path, version: str, directory: Path) -> str:
    with coord_server_process(directory) as server:
        return Player(server.endpoint, version, directory).play(parse(script.read_text()))


def play_on_etcd(script: Path, version: str, directory: Path) -> str:
    with real_etcd(directory, version=version) as server:
        return Player(server.endpoint, version, directory).play(parse(script.read_text()))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
@pytest.mark.parametrize("etcdctl_version", VERSIONS, indirect=True)
def test_etcdctl_prints_the_same(script: Path, etcdctl_version: str, tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        ours = pool.submit(play_on_coord, script, etcdctl_version, tmp_path / "ours")
        theirs = pool.submit(play_on_etcd, script, etcdctl_version, tmp_path / "etcd")
    difference = difflib.unified_diff(
        theirs.result().splitlines(), ours.result().splitlines(), "etcd", "coord-server", n=6
    )
    if text := "\n".join(line[:500] for line in difference):
        pytest.fail(text, pytrace=False)
