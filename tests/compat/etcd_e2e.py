"""etcd's own end-to-end tests, unmodified, with coord-server as ``etcd``: ``python -m tests.compat.etcd_e2e [NAME...]``.

They are those of release 3.4.23, whose sources Debian packages (``golang-go``, ``golang-etcd-server-dev``), and start
clusters of one and three members with and without TLS, which etcdctl 3.4.23 then works with. Each test runs
once with each server, alone; what counts is that it ends in the same way.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.clients import golang
from tests.support import peers
from tests.support.servers import clean_environment, etcd_binary

SOURCES = golang.PACKAGES / "src/go.etcd.io/etcd"
BUILD_WITHIN_S = 600
RUN_WITHIN_S = 120

# Words in the names of tests of what is not there yet, or is another program.
LEFT_OUT = {
    "V2": "the API of etcd 2",
    "Auth": "the Auth service comes with a later issue",
    "User": "the Auth service comes with a later issue",
    "Role": "the Auth service comes with a later issue",
    "V3Curl": "the JSON gateway comes with a later issue",
    "Grpcproxy": "another program",
    "Gateway": "another program",
    "Migrate": "another program",
    "Upgrade": "needs an older etcd beside it",
}
KEPT = ("TestEtcdPeerCNAuth", "TestEtcdPeerNameAuth")

_OWN_FILES = "looks into files of etcd: a snapshot or a database of coord-server is no bbolt file"
_LATER_RELEASE = "expects what 3.4 says; coord-server says what 3.5 does"
_GO_TLS = "waits for words of Go's TLS in the log of the member that is refused"
DIFFERS = {
    "TestCtlV3Alarm": f"{_LATER_RELEASE}: /health gives the reason, too",
    "TestV3MetricsSecure": f"{_LATER_RELEASE}: etcd_server_version is 3.5",
    "TestV3MetricsInsecure": f"{_LATER_RELEASE}: etcd_server_version is 3.5",
    "TestCtlV3Snapshot": _OWN_FILES,
    "TestCtlV3SnapshotStatusBeforeRestore": _OWN_FILES,
    "TestIssue6361": _OWN_FILES,
    "TestEtcdCorruptHash": _OWN_FILES,
    "TestCtlV3GetRevokedCRL": "its --client-crl-file is in DER form; coord-server takes PEM, and says so",
    "TestEtcdPeerCNAuth": _GO_TLS,
    "TestEtcdPeerNameAuth": _GO_TLS,
}


def built(scratch: Path) -> Path:
    """Build the tests; return the program."""
    go = shutil.which("go")
    if go is None or not (SOURCES / "tests/e2e").is_dir():
        raise SystemExit(f"missing: install Debian's {golang.NEEDS}")
    program = scratch / "e2e.test"
    done = subprocess.run(
        [go, "test", "-c", "-o", str(program), "."],
        cwd=SOURCES / "tests/e2e",
        env=os.environ | golang.environment(scratch),
        capture_output=True,
        text=True,
        timeout=BUILD_WITHIN_S,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"the tests do not build\n{done.stderr}")
    return program


def programs(scratch: Path) -> dict[str, Path]:
    """Return a directory for each server, with what the tests take for ``etcd`` and ``etcdctl``."""
    if peers.DEBIAN_RELEASE != "3.4.23" or peers.program("etcdctl") is None:
        raise SystemExit(peers.describe("etcdctl"))
    found: dict[str, Path] = {}
    for name in ("coord-server", "etcd"):
        directory = found[name] = scratch / name
        directory.mkdir()
        (directory / "etcdctl").symlink_to(etcd_binary("etcdctl", peers.DEBIAN_RELEASE))
    (found["etcd"] / "etcd").symlink_to(etcd_binary("etcd", peers.DEBIAN_RELEASE))
    ours = found["coord-server"] / "etcd"
    ours.write_text(f'#!/bin/sh\nexec {sys.executable} -m coord_server "$@"\n')
    ours.chmod(0o755)
    return found


def listed(program: Path) -> list[str]:
    """Return the names of the tests that are run."""
    words = [str(program), "-test.list", "."]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    names = [line for line in done.stdout.splitlines() if line.startswith("Test")]
    return [n for n in names if n in KEPT or not any(word in n for word in LEFT_OUT)]


def outcome(program: Path, test: str, directory: Path, scratch: Path) -> str:
    """Run one test with one server; return how it ended: passed, failed or hung."""
    home = scratch / f"{directory.name}-{test}"
    home.mkdir()
    running = subprocess.Popen(
        [
            *(str(program), "-test.run", f"^{test}$", "-test.v"),
            *("-bin-dir", str(directory), "-cert-dir", str(SOURCES / "integration/fixtures")),
        ],
        cwd=home,
        env=clean_environment({"TMPDIR": str(home)}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        said, _ = running.communicate(timeout=RUN_WITHIN_S)
    except subprocess.TimeoutExpired:
        # Its servers have terminals of their own and would stay.
        for pid in (*children(running.pid), running.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        running.communicate()
        return "hung"
    if running.returncode == 0:
        return "skipped" if f"--- SKIP: {test}" in said else "passed"
    (scratch / f"{directory.name}-{test}.log").write_text(said)
    return "failed"


def children(pid: int) -> list[int]:
    """Return the processes that a process has started and that run."""
    threads = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(word) for thread in threads for word in thread.read_text().split()]


def main() -> int:
    """Run the tests with both servers, print how each ended where that differs; return 1 if not all is known."""
    parser = argparse.ArgumentParser(prog="python -m tests.compat.etcd_e2e")
    parser.add_argument("names", nargs="*", help="tests; all if none is named")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="etcd-e2e-", ignore_cleanup_errors=True) as directory:
        scratch = Path(directory)
        program, servers = built(scratch), programs(scratch)
        names = options.names or listed(program)
        count: dict[str, int] = {}
        news = 0
        for test in names:
            ends = {name: outcome(program, test, path, scratch) for name, path in servers.items()}
            ours, theirs = ends["coord-server"], ends["etcd"]
            count[f"{ours}, {theirs}"] = count.get(f"{ours}, {theirs}", 0) + 1
            if ours != theirs:
                news += test not in DIFFERS
                print(f"{test}: {ours} with coord-server, {theirs} with etcd: {DIFFERS.get(test, 'NEW')}",
                      flush=True)  # fmt: skip
        for pair, number in sorted(count.items()):
            print(f"{number:4} {pair} (coord-server, etcd)")
    return 1 if news else 0


if __name__ == "__main__":
    sys.exit(main())
