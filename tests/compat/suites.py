"""Other people's own test suites, unmodified, on coord-server and on etcd: ``python -m tests.compat.suites [NAME...]``.

A suite comes with the source distribution of its client. It runs in an environment of its own below
``.cache/``, since these packages ask for releases of grpcio and protobuf that do not go together, once
with each server. What counts is that every test ends in the same way on both: some fail on real etcd
too, for they were written for other releases or for the machine of their author.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import xml.etree.ElementTree as ET
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.servers import (
    ServerProcess,
    clean_environment,
    coord_server_process,
    etcd_binary,
    real_etcd,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager

CACHE = Path(__file__).parents[2] / ".cache" / "suites"
RUN_WITHIN_S = 900

Outcomes = dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """Where a suite comes from and what it needs."""

    distribution: str
    """Name and version, as ``name==version``."""
    needs: tuple[str, ...]
    """What its tests import besides."""
    options: tuple[str, ...]
    """For pytest, in the directory of the source distribution."""
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    url_variable: str = ""
    """The environment variable that tells its tests where the server is."""
    conftest: str = ""
    """Written beside the tests where the distribution lacks its own; ``HOST`` and ``PORT`` are put in."""
    differs: Mapping[str, str] = field(default_factory=dict[str, str])
    """Tests that end in another way on our server, and why."""


# The fixture that etcetra's tests ask for, which its source distribution leaves out.
_ETCETRA_FIXTURE = """
import pytest
from etcetra import EtcdClient
from etcetra.types import HostPortPair

@pytest.fixture
async def etcd():
    client = EtcdClient(HostPortPair("HOST", PORT))
    yield client
    async with client.connect() as communicator:
        await communicator.delete_prefix("/test")
"""

_NO_AUTH = "fails on both; on ours already in its fixture, as the Auth service is not there yet"
_OWN_SNAPSHOTS = (
    "a snapshot of coord-server is no bbolt file, which etcdctl's snapshot status reads"
)
SUITES: dict[str, Suite] = {
    "aetcd": Suite(
        distribution="aetcd==1.0.0",
        needs=("pytest<9", "pytest-asyncio<1", "pytest-mock"),
        options=("-o", "addopts=", "-o", "asyncio_mode=auto", "tests/integration"),
        url_variable="TEST_ETCD_HTTP_URL",
        differs={
            "tests.integration.test_auth::test_auth": _NO_AUTH,
            "tests.integration.test_maintenance::test_snapshot": _OWN_SNAPSHOTS,
        },
    ),
    "python-etcd3": Suite(
        distribution="etcd3==0.12.0",
        # Releases of its time: later ones refuse what its tests do.
        needs=("protobuf<4", "pytest<9", "hypothesis<6", "tenacity<7", "mock"),
        options=("tests",),
        env={"TEST_ETCD_VERSION": "v3.5.1"},
        url_variable="PYTHON_ETCD_HTTP_URL",
        differs={"tests.test_etcd3.TestEtcd3::test_snapshot": _OWN_SNAPSHOTS},
    ),
    "etcetra": Suite(
        distribution="etcetra==0.1.19",
        needs=("pytest<9", "pytest-asyncio<1", "pytest-mock"),
        options=("-o", "asyncio_mode=auto", "tests"),
        conftest=_ETCETRA_FIXTURE,
    ),
}


def prepared(name: str) -> Path:
    """Return a directory with the suite's environment in ``venv`` and its files in ``source``, made if need be."""
    suite = SUITES[name]
    home = CACHE / suite.distribution
    if home.exists():
        return home
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        made = Path(scratch) / "made"
        made.mkdir()
        _run(sys.executable, "-m", "venv", str(made / "venv"))
        pip = (str(made / "venv" / "bin" / "python"), "-m", "pip", "--disable-pip-version-check")
        _run(*pip, "install", "--quiet", suite.distribution, *suite.needs)
        package = suite.distribution.partition("==")[0]
        _run(
            *(*pip, "download", "--quiet", "--no-deps", "--no-binary", package),
            *("--dest", str(made / "archive"), suite.distribution),
        )
        (archive,) = (made / "archive").iterdir()
        with tarfile.open(archive) as packed:
            packed.extractall(made / "unpacked", filter="data")
        (source,) = (made / "unpacked").iterdir()
        os.replace(source, made / "source")
        # The interpreter of an environment finds its packages also after a move.
        os.replace(made, home)
    return home


def _run(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def outcomes(name: str, server: ServerProcess, scratch: Path) -> Outcomes:
    """Run a suite on a server; return how each test ended: passed, failed, error or skipped."""
    suite, home = SUITES[name], prepared(name)
    host, _, port = server.endpoint.rpartition(":")
    scratch.mkdir(parents=True)
    source = scratch / "source"
    shutil.copytree(home / "source", source)
    if suite.conftest:
        text = suite.conftest.replace("HOST", host).replace("PORT", port)
        (source / "tests" / "conftest.py").write_text(text)
    programs = scratch / "bin"
    programs.mkdir()
    (programs / "etcdctl").symlink_to(etcd_binary("etcdctl"))
    report = scratch / "report.xml"
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    extra = {"PATH": path, "PYTHONPATH": "", **suite.env}
    if suite.url_variable:
        extra[suite.url_variable] = server.url
    done = subprocess.run(
        [
            *(
                str(home / "venv" / "bin" / "python"),
                "-m",
                "pytest",
                "-q",
                "-p",
                "no:cacheprovider",
            ),
            *(f"--junitxml={report}", *suite.options),
        ],
        cwd=source,
        env=clean_environment(extra),
        capture_output=True,
        text=True,
        timeout=RUN_WITHIN_S,
        check=False,
    )
    if not report.exists():
        raise SystemExit(f"{name}: no report\n{done.stdout[-3000:]}{done.stderr[-2000:]}")
    (scratch / "output").write_text(done.stdout)
    return _read(report)


def _read(report: Path) -> Outcomes:
    found: Outcomes = {}
    for case in ET.parse(report).iter("testcase"):
        kinds = {child.tag for child in case} & {"failure", "error", "skipped"}
        name = f"{case.get('classname')}::{case.get('name')}"
        found[name] = {"failure": "failed"}.get(*kinds, *kinds) if kinds else "passed"
    return found


def on_both(name: str, directory: Path) -> dict[str, Outcomes]:
    """Return the outcomes of a suite on each server."""
    start: dict[str, Callable[[Path], AbstractContextManager[ServerProcess]]] = {
        "coord-server": coord_server_process,
        "etcd": real_etcd,
    }
    found: dict[str, Outcomes] = {}
    for kind, started in start.items():
        with started(directory / kind / "server") as server:
            found[kind] = outcomes(name, server, directory / kind / "suite")
    return found


def differences(name: str, found: Mapping[str, Outcomes]) -> list[str]:
    """Return a line per test that ends in another way on our server and is not expected to."""
    ours, theirs = found["coord-server"], found["etcd"]
    known = SUITES[name].differs
    return [
        f"{test}: {ours.get(test, 'missing')} on coord-server, {theirs.get(test, 'missing')} on etcd"
        for test in sorted({*ours, *theirs})
        if ours.get(test) != theirs.get(test) and test not in known
    ]


def main() -> int:
    """Run suites on both servers; exit 1 if one tells them apart."""
    parser = argparse.ArgumentParser(prog="python -m tests.compat.suites")
    parser.add_argument("names", nargs="*", help=f"of {', '.join(SUITES)}; all if none is named")
    parser.add_argument("--keep", type=Path, help="a directory for reports and output")
    options = parser.parse_args()
    unknown = sorted(set(options.names) - set(SUITES))
    if unknown:
        parser.error(f"no such suite: {', '.join(unknown)}; there are {', '.join(SUITES)}")
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="coord-suites-") as scratch:
        for name in options.names or SUITES:
            found = on_both(name, (options.keep or Path(scratch)) / name)
            for kind, ended in found.items():
                counted = ", ".join(
                    f"{n} {how}" for how, n in sorted(Counter(ended.values()).items())
                )
                print(f"{name:14} {kind:14} {counted}", flush=True)
            lines = differences(name, found)
            wrong += len(lines)
            for line in lines:
                print(f"  {line}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
