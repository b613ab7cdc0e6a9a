"""``etcdctl check perf --load=s`` prints the same on both servers, apart from what it measures."""

from __future__ import annotations

import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.servers import (
    clean_environment,
    coord_server_process,
    etcd_binary,
    etcd_versions,
    real_etcd,
)

# A bar that is drawn over and over; what is said next may stand on its last line.
_BAR = re.compile(r"\s*\d+ / \d+ [^\r\n%]*%(?: [\dhms]+)?")
_WITHOUT_VERDICT = re.compile(r"^(?:PASS|FAIL)?(?:: )?(Throughput|Slowest request|Stddev|).*")

pytestmark = [pytest.mark.etcd, pytest.mark.processes, pytest.mark.slow]


def verdict(kind: str, version: str, directory: Path) -> str:
    """Run the check, which takes a minute, on a new server; return its last lines without figures."""
    directory.mkdir()
    started = (
        coord_server_process(directory)
        if kind == "coord-server"
        else real_etcd(directory, version=version)
    )
    with started as server:
        done = subprocess.run(
            [
                etcd_binary("etcdctl", version),
                "--endpoints",
                server.endpoint,
                "check",
                "perf",
                "--load=s",
            ],
            capture_output=True,
            text=True,
            timeout=110,
            env=clean_environment({"ETCDCTL_API": "3"}),
            check=False,
        )
    lines = [line for line in re.split(r"[\r\n]+", _BAR.sub("\n", done.stdout)) if line.strip()]
    # Whether a figure is good enough is a matter of the machine, and so is what is said about it.
    return "\n".join(_WITHOUT_VERDICT.sub(r"\1", line) for line in lines) + "\n" + done.stderr


@pytest.mark.timeout(180)
def test_check_perf_prints_the_same(tmp_path: Path) -> None:
    runs = [(kind, version) for kind in ("coord-server", "etcd") for version in etcd_versions()]
    with ThreadPoolExecutor(len(runs)) as pool:
        waiting = {run: pool.submit(verdict, *run, tmp_path / f"{run[0]}-{run[1]}") for run in runs}
        seen = {run: future.result() for run, future in waiting.items()}
    for version in etcd_versions():
        assert seen["coord-server", version] == seen["etcd", version]
        subjects = ["Throughput", "Slowest request", "Stddev", ""]
        assert seen["coord-server", version].split("\n")[:4] == subjects
