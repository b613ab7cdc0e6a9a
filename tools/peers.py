"""Fetch the programs that tests and benchmarks compare with, where the system's packages have them.

``python -m tools.peers`` downloads Debian packages by the system's own ``apt-get`` and unpacks them into
the virtual environment; nothing is installed, and nothing outside of it is changed but, by root, the
lists of packages. What is there already, here or on the system, is left as it is. Says in one line for
each program what came of it; the exit status is 0 in any case.
"""

# ruff: noqa: INP001 - a script, in a folder that is no package.

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support import peers

PACKAGES = {
    "etcd": "etcd-server",
    "etcdctl": "etcd-client",
    "h2load": "nghttp2-client",
    "postgres": "postgresql",
    "redis-server": "redis-server",
    "zookeeper": "libzookeeper-java",
}
# Programs that may need libraries which the system has not: what these are called.
NEED_MORE = {"h2load": "", "postgres": r"lib(?!llvm)", "redis-server": r"redis-tools|lib"}
# What the server of ZooKeeper loads when it starts; it tells its version without. Java is the system's.
JARS = (
    "libslf4j-java",
    "liblog4j1.2-java",
    "libnetty-java",
    "libdropwizard-metrics-java",
    "libjackson2-core-java",
    "libjackson2-databind-java",
    "libjackson2-annotations-java",
    "libsnappy-java",
    "libcommons-cli-java",
    "libcommons-io-java",
)
# What a system that runs Python has, and what must fit its kernel and loader.
OF_THE_SYSTEM = {"libc6", "libgcc-s1", "libstdc++6"}
TIMEOUT_S = 120.0


class NotHad(Exception):
    """A package cannot be had; the text says why."""


def main() -> int:
    """Fetch what is missing; return 0."""
    for name, package in PACKAGES.items():
        if peers.program(name) is None:
            try:
                fetch(name, package)
            except NotHad as error:
                print(f"peers: {peers.describe(name)}, and {error}")  # noqa: T201
                continue
            peers.program.cache_clear()
        print(f"peers: {peers.describe(name)}")  # noqa: T201
    return 0


def fetch(name: str, package: str) -> None:
    """Unpack a package, and what it depends on if it does not run alone. Raises NotHad."""
    if sys.prefix == sys.base_prefix:
        raise NotHad("this Python is in no virtual environment")
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise NotHad(f"there is no {tool} to fetch it")
    depends = unpack(package)
    if name == "postgres":  # the package only says which release is the present one
        (server,) = [each for each in depends if re.fullmatch(r"postgresql-\d+", each)]
        depends = unpack(server)
    if name == "zookeeper":
        if shutil.which("java") is None:
            raise NotHad("there is no java to run it: install default-jre-headless")
        for each in JARS:
            unpack(each)
    peers.program.cache_clear()
    seen: set[str] = set()
    while peers.program(name) is None and name in NEED_MORE and depends:
        wanted = [each for each in depends if re.match(NEED_MORE[name], each)]
        depends = [more for each in sorted(set(wanted) - seen) for more in unpack(each)]
        seen.update(wanted)
        peers.program.cache_clear()


def unpack(package: str) -> list[str]:
    """Download and unpack one package; return the names of those that it depends on."""
    peers.UNPACKED.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=peers.UNPACKED) as scratch:
        download(package, Path(scratch))
        (archive,) = Path(scratch).glob("*.deb")
        run("dpkg-deb", "-x", str(archive), str(peers.UNPACKED))
        fields = run("dpkg-deb", "-f", str(archive), "Depends")
    names = [re.split(r"[ |:(]", field.strip(), maxsplit=1)[0] for field in fields.split(",")]
    return [name for name in names if name and name not in OF_THE_SYSTEM]


def download(package: str, folder: Path) -> None:
    """Put the package's file into a folder; without lists of packages, root gets them first."""
    command = ("apt-get", "-qq", "download", package)
    try:
        run(*command, folder=folder)
    except NotHad:
        if os.geteuid() != 0:
            raise
        run("apt-get", "-qq", "update")
        run(*command, folder=folder)


def run(*command: str, folder: Path | None = None) -> str:
    """Run a command and return its output. Raises NotHad with its last line."""
    try:
        done = subprocess.run(  # noqa: S603
            command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotHad(f"`{' '.join(command)}` failed: {error}") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise NotHad(f"`{' '.join(command)}` failed: {lines[-1]}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
