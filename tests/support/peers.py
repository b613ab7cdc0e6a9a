"""Programs to compare with and to measure with, where they are.

``make peers`` unpacks Debian's into the virtual environment; where it has none, the system's are taken,
unless ``COORD_SYSTEM_PEERS=no`` says that there are none.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

# Releases of etcd that tests compare with. The first comes with the package that pip installs.
RELEASES = ("3.5.1", "3.4.23")
DEBIAN_RELEASE = RELEASES[1]
# Where `make peers` unpacks packages, as if this were the root of a system.
UNPACKED = Path(sys.prefix) / "peers"

_ASK = {
    "etcd": "--version",
    "etcdctl": "version",
    "h2load": "--version",
    "initdb": "--version",
    "postgres": "--version",
    "redis-server": "--version",
    # A class: the words of `zookeeper` end where the name of one is to follow.
    "zookeeper": "org.apache.zookeeper.version.VersionInfoMain",
}
# Any release of these will do.
_ANY_RELEASE = frozenset({"h2load", "initdb", "postgres", "redis-server", "zookeeper"})
# Debian keeps servers of several releases side by side, out of the way of PATH.
_POSTGRES = "lib/postgresql/*/bin"
_ASK_TIMEOUT_S = 20.0


@functools.cache
def program(name: str) -> tuple[str, ...] | None:
    """The words that run ``etcd`` or ``etcdctl`` 3.4.23, ``h2load``, ``redis-server`` ...; None if it is not here."""
    for _, words in _candidates(name):
        version = _version((*words, _ASK[name]))
        if version and (name in _ANY_RELEASE or version == DEBIAN_RELEASE):
            return words
    return None


def describe(name: str) -> str:
    """Say in one line where a program is, or what is there instead of it."""
    words = program(name)
    if words is not None:
        return f"{name}: {words[-1]}"
    others = [
        f"{path} is {_version((*words, _ASK[name])) or 'not able to run'}"
        for path, words in _candidates(name)
    ]
    wanted = name if name in _ANY_RELEASE else f"{name} {DEBIAN_RELEASE}"
    return f"no {wanted} here" + (f" ({', '.join(others)})" if others else "")


def _candidates(name: str) -> Iterator[tuple[Path, tuple[str, ...]]]:
    if name == "zookeeper":
        yield from _zookeeper()
        return
    for unpacked in (UNPACKED / "usr" / "bin" / name, *_newest(UNPACKED / "usr", name)):
        if not unpacked.exists():
            continue
        folders = sorted(str(path.parent) for path in UNPACKED.glob("usr/lib/**/lib*.so.*"))
        libraries = ":".join(dict.fromkeys(folders))
        # By `env`, so that whoever runs it need not know.
        words = ("env", f"LD_LIBRARY_PATH={libraries}", str(unpacked))
        yield unpacked, words if libraries else words[2:]
    if os.environ.get("COORD_SYSTEM_PEERS", "yes") != "no":
        on_path = [Path(folder) / name for folder in os.get_exec_path()]
        for path in (*on_path, *_newest(Path("/usr"), name)):
            if os.access(path, os.X_OK):
                yield path, (str(path),)


def _zookeeper() -> Iterator[tuple[Path, tuple[str, ...]]]:
    java = shutil.which("java")
    for root in (UNPACKED / "usr", Path("/usr")):
        jar = root / "share" / "java" / "zookeeper.jar"
        if java is not None and jar.exists():
            yield jar, (java, "-cp", str(jar.parent / "*"))


def _newest(root: Path, name: str) -> list[Path]:
    """The PostgreSQL programs of this name below ``root``, the newest release first."""
    found = root.glob(f"{_POSTGRES}/{name}")
    return sorted(found, key=lambda path: int(path.parent.parent.name), reverse=True)


def _version(command: tuple[str, ...]) -> str:
    """What the program says it is; "" if it does not run."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_ASK_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    found = re.search(r"\d+\.\d+(\.\d+)?", done.stdout)
    return found[0] if found and done.returncode == 0 else ""
