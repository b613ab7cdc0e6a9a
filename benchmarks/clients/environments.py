"""An environment for each client: they disagree about protobuf and grpcio, and none is to be handicapped for it.

Made by pip the first time, in ``.cache/clients/``; a client that cannot be installed is told with the reason.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.servers import clean_environment

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".cache" / "clients"
INSTALL_TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """A distribution, the name of its package, what its environment needs besides, and how it is run."""

    name: str
    package: str
    module: str
    """Its load generator in ``benchmarks.clients``."""
    besides: tuple[str, ...] = ("uvloop",)
    env: Mapping[str, str] = field(default_factory=dict[str, str])


CLIENTS = (
    Client(name="aetcd==1.0.0", package="aetcd", module="aetcd_load"),
    Client(
        name="etcd3==0.12.0",
        package="etcd3",
        module="etcd3_load",
        # The newest that its generated code agrees with. There is no compiled one for Python 3.11, with any release.
        besides=("protobuf==3.20.3",),
        env={"PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python"},
    ),
    Client(name="etcetra==0.1.19", package="etcetra", module="etcetra_load"),
    Client(name="etcd-client-py==0.5.1", package="etcd_client", module="etcd_client_load"),
)
SIDES = (
    Client(name="kazoo==2.11.0", package="kazoo", module="kazoo_load", besides=()),
    Client(name="redis==8.1.0", package="redis", module="redis_load"),
)


def folder(client: Client) -> Path:
    """Where a client's environment is."""
    return CACHE / client.name


@functools.cache
def missing(client: str) -> str | None:
    """Make the environment of the client of this name unless it is there; say why that failed, if it did."""
    (known,) = [c for c in (*CLIENTS, *SIDES) if c.name == client]
    home = folder(known)
    done = home / "installed"
    if done.exists():
        return None
    return make(home, known.name, *known.besides) or _note(done)


def make(home: Path, *requirements: str) -> str | None:
    """Make a virtual environment and install into it; return what went wrong."""
    home.parent.mkdir(parents=True, exist_ok=True)
    for command in (
        [sys.executable, "-m", "venv", "--clear", str(home)],
        [python(home), "-m", "pip", "--disable-pip-version-check", "install", "-q", *requirements],
    ):
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=INSTALL_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"not installed within {INSTALL_TIMEOUT_S:g} s"
        if done.returncode != 0:
            return f"cannot be installed: {done.stderr.strip().splitlines()[-1]}"
    return None


def _note(done: Path) -> None:
    done.touch()


def python(home: Path) -> str:
    """Return the interpreter of an environment."""
    return str(home / "bin" / "python")


def environment(client: Client | None) -> dict[str, str]:
    """Return the variables to run a load generator with; None is ours, which runs from the tree."""
    paths = [str(ROOT)]
    if client is None:
        paths += [str(ROOT / "src"), str(ROOT / "src" / "server")]
    extra = {"PYTHONPATH": os.pathsep.join(paths)}
    return clean_environment(extra | dict(client.env if client is not None else {}))
