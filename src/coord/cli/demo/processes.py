"""The processes of the demo: started here, ended here, by their ids.

Children are in sessions of their own, so that Ctrl-C reaches the story alone, which then ends them in order.
Should the story itself be killed, actors end when their standard input does, and the server when nobody has been
connected for a while.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import time
from typing import TYPE_CHECKING, Any, Self

from coord.runtime import finish

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import Mapping
    from pathlib import Path

Event = dict[str, Any]

READY_WITHIN_S = 20.0
_END_WITHIN_S = 10.0
_POLL_S = 0.01
_TAIL_LINES = 8


class ChildFailed(Exception):
    """A child process did not do what it was started for."""


class Actor:
    """One child process that runs :mod:`coord.cli.demo.actors`. Made by :meth:`Troupe.actor`."""

    def __init__(self, name: str, process: Process, errors: Path) -> None:
        self.name = name
        self._process = process
        self._errors = errors

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    async def event(self, kind: str, *, within: float = READY_WITHIN_S) -> Event:
        """Return the next event of this kind; others are passed over. Raises :class:`ChildFailed`."""
        stream = self._process.stdout
        if stream is None:
            raise ChildFailed(f"{self.name} has no output")
        try:
            async with asyncio.timeout(within):
                while line := await stream.readline():
                    event: Event = json.loads(line)
                    if event["event"] == kind:
                        return event
        except TimeoutError:
            raise ChildFailed(f"{self.name} did not report {kind!r} within {within:g} s") from None
        raise ChildFailed(f"{self.name} ended before it reported {kind!r}{_tail(self._errors)}")

    def tell(self, command: str) -> None:
        """Send a line to its standard input."""
        if self._process.stdin is not None:
            self._process.stdin.write(command.encode() + b"\n")

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    async def kill(self) -> None:
        """Kill -9, and wait until it is gone."""
        await _end(self._process, signal.SIGKILL)

    async def ended(self) -> int:
        """Wait until it has ended by itself, and return its exit code."""
        try:
            async with asyncio.timeout(_END_WITHIN_S):
                return await self._process.wait()
        except TimeoutError:
            raise ChildFailed(f"{self.name} did not end") from None


class Server:
    """A ``coord-server`` process with its data in the demo's directory; may be killed and started again."""

    def __init__(self, troupe: Troupe, directory: Path) -> None:
        self._troupe = troupe
        self._directory = directory
        self._address_file = directory / "address.json"
        self._errors = directory / "server.log"
        self._process: Process | None = None
        self._port = _free_port()

    @property
    def endpoint(self) -> str:
        """``host:port``; the same after a restart."""
        return f"127.0.0.1:{self._port}"

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid if self._process is not None else 0

    async def start(self) -> float:
        """Start it, wait until it serves, and return how many seconds that took."""
        began = time.monotonic()
        self._address_file.unlink(missing_ok=True)
        url = f"http://{self.endpoint}"
        command = [
            *(sys.executable, "-m", "coord_server", f"--data-dir={self._directory / 'data'}"),
            *(f"--listen-client-urls={url}", f"--advertise-client-urls={url}"),
            *(f"--coord-address-file={self._address_file}", "--coord-idle-exit=60s"),
        ]
        process = self._process = await self._troupe.spawn(command, self._errors, talks=False)
        while not self._address_file.exists():
            if process.returncode is not None or time.monotonic() - began > READY_WITHIN_S:
                raise ChildFailed(f"the server did not start{_tail(self._errors)}")
            await asyncio.sleep(_POLL_S)
        return time.monotonic() - began

    async def kill(self) -> None:
        """Kill -9, and wait until it is gone."""
        if self._process is not None:
            await _end(self._process, signal.SIGKILL)

    async def stop(self) -> int:
        """Ask it to stop, and return its exit code."""
        return 0 if self._process is None else await _end(self._process, signal.SIGTERM)


class Troupe:
    """Owns every child process; none is left when its ``async with`` ends."""

    def __init__(self, directory: Path, settings: Mapping[str, object]) -> None:
        self._directory = directory
        self._settings = dict(settings)
        self._children: list[Process] = []

    async def __aenter__(self) -> Self:
        """Begin."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """End all children, also when the caller is cancelled meanwhile."""
        await finish(self.end_all(), within=_END_WITHIN_S * 2)

    async def actor(self, role: str, name: str, **settings: object) -> Actor:
        """Start an actor."""
        given = json.dumps(self._settings | {"name": name} | settings)
        errors = self._directory / f"{name}.err"
        command = [sys.executable, "-m", "coord.cli.demo.actors", role, given]
        return Actor(name, await self.spawn(command, errors, talks=True), errors)

    async def spawn(self, command: list[str], errors: Path, *, talks: bool) -> Process:
        """Start a child. With ``talks`` its standard input and output are pipes to the story."""
        pipe = asyncio.subprocess.PIPE if talks else asyncio.subprocess.DEVNULL
        with errors.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=pipe,
                stdout=pipe if talks else log,
                stderr=log,
                env=_environment(),
                start_new_session=True,
            )
        self._children.append(process)
        return process

    @property
    def started(self) -> int:
        """How many children have been started."""
        return len(self._children)

    @property
    def alive(self) -> list[int]:
        """The ids of children that have not ended."""
        return [child.pid for child in self._children if child.returncode is None]

    async def end_all(self) -> None:
        """Kill what still runs, and wait for it."""
        for child in self._children:
            await _end(child, signal.SIGKILL)
            if child.stdin is not None:
                child.stdin.close()
                with contextlib.suppress(OSError):
                    await child.stdin.wait_closed()

    def kill_now(self) -> None:
        """Kill what still runs, without a loop: the last resort of an interrupted clean-up."""
        for pid in self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


async def _end(process: Process, number: signal.Signals) -> int:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)
        try:
            async with asyncio.timeout(_END_WITHIN_S):
                return await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
    return await process.wait()


def _free_port() -> int:
    """Return a loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _environment() -> dict[str, str]:
    """Return this process's environment without what clients and servers would read from it."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("COORD_", "ETCD_", "ETCDCTL_"))
    }


def _tail(errors: Path) -> str:
    lines = errors.read_text(errors="replace").splitlines()[-_TAIL_LINES:]
    return ":\n" + "\n".join(f"      {line}" for line in lines) if lines else ""
