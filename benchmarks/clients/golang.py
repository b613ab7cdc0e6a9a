"""The load with etcd's own Go client, built from what Debian packages: no module is fetched."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

from tests.support import peers

SOURCE = Path(__file__).parent / "goload" / "main.go"
# Where Debian's -dev packages put sources of Go.
PACKAGES = Path("/usr/share/gocode")
NEEDS = "golang-go and golang-etcd-server-dev"
BUILD_TIMEOUT_S = 600.0


@functools.cache
def program() -> Path | None:
    """Return the program, built if need be; None where Go or the client's sources are not installed."""
    go = shutil.which("go")
    if go is None or not (PACKAGES / "src/go.etcd.io/etcd/clientv3").is_dir():
        return None
    text = SOURCE.read_bytes()
    built = peers.UNPACKED / f"goload-{hashlib.sha256(text).hexdigest()[:16]}"
    if not built.exists():
        built.parent.mkdir(parents=True, exist_ok=True)
        _build(go, built)
    return built


def environment(cache: Path) -> dict[str, str]:
    """Return what Go must be told to build from Debian's packages alone."""
    return {
        "GO111MODULE": "off",
        "GOFLAGS": "",
        "GOPATH": str(PACKAGES),
        "GOCACHE": str(cache / "gocache"),
    }


def _build(go: str, target: Path) -> None:
    done = subprocess.run(
        [go, "build", "-o", str(target), str(SOURCE)],
        env=os.environ | environment(target.parent),
        capture_output=True,
        text=True,
        timeout=BUILD_TIMEOUT_S,
        check=False,
    )
    if done.returncode != 0:
        raise SystemExit(f"the Go client does not build\n{done.stderr}")
