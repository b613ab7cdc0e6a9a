"""Programs in Go, with etcd's own client and recipes, built from what Debian packages: no module is fetched."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

from tests.support import peers

# Where Debian's -dev packages put sources of Go.
PACKAGES = Path("/usr/share/gocode")
NEEDS = "golang-go and golang-etcd-server-dev"
_BUILD_WITHIN_S = 300.0


@functools.cache
def program(folder: Path) -> Path | None:
    """The program of a folder's files, built if need be; None where Go or etcd's sources are not installed."""
    go = shutil.which("go")
    if go is None or not (PACKAGES / "src/go.etcd.io/etcd/contrib/recipes").is_dir():
        return None
    sources = sorted(folder.glob("*.go"))
    digest = hashlib.sha256(b"\0".join(source.read_bytes() for source in sources)).hexdigest()[:16]
    built = peers.UNPACKED / f"{folder.name}-{digest}"
    if not built.exists():
        built.parent.mkdir(parents=True, exist_ok=True)
        _build(go, sources, built)
    return built


def _build(go: str, sources: list[Path], target: Path) -> None:
    told = {
        "GO111MODULE": "off",
        "GOFLAGS": "",
        "GOPATH": str(PACKAGES),
        "GOCACHE": str(target.parent / "gocache"),
    }
    unfinished = target.with_suffix(f".{os.getpid()}")
    done = subprocess.run(
        [go, "build", "-o", str(unfinished), *map(str, sources)],
        env=os.environ | told,
        capture_output=True,
        text=True,
        timeout=_BUILD_WITHIN_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    unfinished.rename(target)
