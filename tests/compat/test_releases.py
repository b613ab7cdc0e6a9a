"""Both releases of etcd are here to be compared with, or a skipped test says which one is not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import peers
from tests.support.servers import clean_environment, etcd_binary, etcd_versions
from tools.peers import PACKAGES

pytestmark = [pytest.mark.etcd, pytest.mark.processes]


@pytest.mark.parametrize("release", peers.RELEASES)
def test_the_release_is_here(release: str) -> None:
    if release not in etcd_versions():
        lacks = "; ".join(peers.describe(name) for name in ("etcd", "etcdctl"))
        pytest.skip(f"nothing is compared with etcd {release}: {lacks}; see `make peers`")
    for name, ask in (("etcd", "--version"), ("etcdctl", "version")):
        command = [etcd_binary(name, release), ask]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
        assert f"ersion: {release}\n" in done.stdout


def test_fetching_never_fails() -> None:
    # Without apt-get there is nothing to fetch with: it says so of what is not here, and that is all.
    done = subprocess.run(
        [sys.executable, "-m", "tools.peers"],
        cwd=Path(__file__).parents[2],
        env=clean_environment({"PATH": "", "COORD_SYSTEM_PEERS": "no"}),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    told = done.stdout.splitlines()
    for line, name in zip(told, PACKAGES, strict=True):
        found = f"peers: {name}: {peers.UNPACKED}/usr/bin/{name}"
        assert line == found or line.endswith("there is no apt-get to fetch it")
