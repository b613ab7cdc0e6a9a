"""One member as a process: started, signalled and ended by its id, with a name, data and addresses that last."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from coord.runtime import finish, start_task
from coord.testing.chaos.waiting import wait_until

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

START_WITHIN_S = 30.0
STOP_WITHIN_S = 20.0
_TAIL_LINES = 12
_LINE_BYTES = 1 << 20
_OWN = ("COORD_", "ETCD_", "ETCDCTL_")


class MemberFailed(Exception):
    """A member's process did not do what it was told; the text holds its last lines."""


def environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Return this process's environment without what a server would read from it, and ``extra``."""
    return {n: value for n, value in os.environ.items() if not n.startswith(_OWN)} | dict(extra)


class MemberProcess:
    """A member of a :class:`Cluster`, which makes it.

    ``peer_url`` and ``client_url`` are what it advertises, ``listens`` the ports where it really is. With
    ``heard`` each line of its log goes there, else to ``log_path``. ``noted`` hears of its processes, as the
    warden wants it.
    """

    def __init__(
        self,
        name: str,
        directory: Path,
        *,
        peer_url: str,
        client_url: str,
        listens: tuple[int, int],
        env: Mapping[str, str],
        heard: Callable[[str, bytes], None] | None = None,
        noted: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.name = name
        self.directory = directory
        self.data_dir: Path = directory / "data"
        self.log_path: Path = directory / "log"
        self.peer_url = peer_url
        self.client_url = client_url
        self.flags: tuple[str, ...] = ()
        self.starts: int = 0
        self._listens = listens
        self.env: dict[str, str] = dict(env)
        """What its next process finds in the environment besides ours."""
        self._heard = heard
        self._noted = noted
        self._address_file = directory / "address.json"
        self._process: Process | None = None
        self._killed: Process | None = None
        self._pouring: asyncio.Task[None] | None = None

    @override
    def __repr__(self) -> str:
        return f"<member {self.name}>"

    # What it is.

    @property
    def endpoint(self) -> str:
        """``host:port`` for clients, the same over restarts."""
        return self.client_url.partition("://")[2]

    @property
    def is_running(self) -> bool:
        """Whether there is a process, paused or not."""
        return self._process is not None and self._process.returncode is None

    @property
    def is_ready(self) -> bool:
        """Whether it has served since it was started last."""
        return self.is_running and self._address_file.exists()

    @property
    def pid(self) -> int:
        """The id of its process. Raises MemberFailed without one."""
        if self._process is None or self._process.returncode is not None:
            raise MemberFailed(f"{self.name} does not run")
        return self._process.pid

    @property
    def member_id(self) -> int:
        """Its id in the cluster, as of its last start. Raises MemberFailed before it has served."""
        if not self._address_file.exists():
            raise MemberFailed(f"{self.name} has not served yet")
        return int(json.loads(self._address_file.read_text())["member_id"], 16)

    def log_text(self) -> str:
        """Return everything that it has logged, over all its starts."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def log_lines(self) -> list[dict[str, Any]]:
        """Return the lines of its log, parsed; a line that a kill cut off is passed over."""
        lines: list[dict[str, Any]] = []
        for line in self.log_text().splitlines():
            with contextlib.suppress(ValueError):
                lines.append(json.loads(line))
        return lines

    # What is done to it.

    async def start(self, *more: str, wait: bool = True) -> None:
        """Start it, with ``more`` flags, and return once it serves, or at once without ``wait``.

        It serves when there is a quorum. Raises MemberFailed.
        """
        if self.is_running:
            raise MemberFailed(f"{self.name} runs already")
        self.directory.mkdir(parents=True, exist_ok=True)
        self._address_file.unlink(missing_ok=True)
        self.starts += 1
        client, peer = self._listens
        command = [
            *(sys.executable, "-m", "coord_server"),
            *(f"--name={self.name}", f"--data-dir={self.data_dir}"),
            f"--listen-client-urls=http://127.0.0.1:{client}",
            f"--advertise-client-urls={self.client_url}",
            f"--listen-peer-urls=http://127.0.0.1:{peer}",
            f"--initial-advertise-peer-urls={self.peer_url}",
            f"--coord-address-file={self._address_file}",
            *self.flags,
            *more,
        ]
        await self._spawn(command)
        if wait:
            await self.ready()

    async def _spawn(self, command: Sequence[str]) -> None:
        # A cancelled start of a process would leave one that nobody knows of.
        await finish(self._begin(command), within=START_WITHIN_S)

    async def _begin(self, command: Sequence[str]) -> None:
        heard = self._heard
        with self.log_path.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=log if heard is None else asyncio.subprocess.PIPE,
                env=environment(self.env),
                # Ctrl-C is for whoever runs the cluster, who then ends the members in order.
                start_new_session=True,
                limit=_LINE_BYTES,
            )
        self._noted(f"+{self._process.pid}")
        self._pouring = start_task(self._attend(self._process))

    async def _attend(self, process: Process) -> None:
        """Pass on what it logs, and note its end."""
        if self._heard is not None and process.stderr is not None:
            await self._pour(process.stderr, self._heard)
        await process.wait()
        self._noted(f"-{process.pid}")

    async def _pour(
        self, stream: asyncio.StreamReader, heard: Callable[[str, bytes], None]
    ) -> None:
        """Pass on the log's lines until the process ends, and keep them."""
        while True:
            try:
                line = await stream.readline()
            except ValueError:
                continue  # longer than any line should be; what follows is read on
            if not line:
                return
            with self.log_path.open("ab") as log:
                log.write(line)
            heard(self.name, line)

    async def ready(self, *, within: float = START_WITHIN_S) -> None:
        """Return once it serves. Raises MemberFailed if it ends before, WaitedTooLong."""

        def serves() -> bool:
            if not self.is_running:
                raise MemberFailed(f"{self.name} ended with {self.exit_code}{self._tail()}")
            return self._address_file.exists()

        await wait_until(serves, what=f"{self.name} serves{self._tail()}", within=within)

    @property
    def exit_code(self) -> int | None:
        """How its last process ended; None while it runs, or if there was none."""
        return None if self._process is None else self._process.returncode

    async def ended(self, *, within: float = STOP_WITHIN_S) -> int:
        """Return its exit code once it has ended by itself. Raises MemberFailed."""
        if self._process is None:
            raise MemberFailed(f"{self.name} was never started")
        try:
            async with asyncio.timeout(within):
                code = await self._process.wait()
                await self._poured()
                return code
        except TimeoutError:
            raise MemberFailed(
                f"{self.name} did not end within {within:g} s{self._tail()}"
            ) from None

    async def stop(self, *, within: float = STOP_WITHIN_S) -> int:
        """SIGTERM, and its exit code. One that hangs is killed and told of by MemberFailed."""
        self._signal(signal.SIGTERM)
        try:
            return await self.ended(within=within)
        except MemberFailed:
            await self.kill()
            raise

    async def kill(self) -> None:
        """Kill -9, and return once it is gone; nothing if it does not run."""
        self._signal(signal.SIGKILL)
        if self._process is not None:
            await self._process.wait()
            await self._poured()

    async def _poured(self) -> None:
        if self._pouring is not None:
            await asyncio.wait([self._pouring])

    def pause(self) -> None:
        """SIGSTOP: it holds still, and its connections stay."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    async def restart(self, *more: str) -> None:
        """Stop it if it runs, and start it again."""
        if self.is_running:
            await self.stop()
        await self.start(*more)

    def wipe(self) -> None:
        """Remove its data, as a new disk would. Raises MemberFailed while it runs."""
        if self.is_running:
            raise MemberFailed(f"{self.name} runs: its data is in use")
        shutil.rmtree(self.data_dir, ignore_errors=True)

    def _signal(self, number: signal.Signals) -> None:
        process = self._process
        # A second signal behind SIGKILL would look for the process first, and take its exit code away from
        # the loop, which then warns of a child that it does not know.
        if process is None or process.returncode is not None or process is self._killed:
            return
        if number is signal.SIGKILL:
            self._killed = process
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)

    def kill_now(self) -> None:
        """Kill -9 without waiting: the last resort of an interrupted clean-up."""
        self._signal(signal.SIGKILL)

    def _tail(self) -> str:
        lines = self.log_text().splitlines()[-_TAIL_LINES:]
        return ":\n" + "\n".join(f"  {line}" for line in lines) if lines else ""
