"""One server as a process, for tests of programs."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from typing_extensions import override

from coord.testing.chaos import Cluster as Members
from coord.testing.chaos import MemberProcess, Proxied
from coord.testing.local.stage import Opening, Stage

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence
    from pathlib import Path

_NAME = "server"


def server(
    *,
    args: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    directory: Path | None = None,
) -> Opening[Server, AsyncServer]:
    """Run a ``coord-server`` process at a free port of 127.0.0.1 for as long as the block runs.

        with coord.testing.server() as server, coord.sync.connect(server.url) as client: ...
        async with coord.testing.server() as server, coord.connect(server.url) as client: ...

    ``args`` are more flags of ``coord-server``, ``env`` more of its environment; what this process has in
    ``COORD_*`` and ``ETCD_*`` does not reach it.
    ``directory`` takes data and log, and keeps them: a later server with the same one has the same port and data.
    Without it they are removed at the end.
    Raises :class:`coord.testing.MemberFailed` with the last lines of the log when it does not start.
    """

    @contextlib.asynccontextmanager
    async def run(stage: Stage, where: Path) -> AsyncGenerator[Server]:
        async with Members(
            where, names=(_NAME,), flags=args, env=env, proxied=Proxied.NOTHING
        ) as members:
            yield Server(stage, members[_NAME])

    return Opening(run, lambda face: face.aio, directory)


class Server:
    """A ``coord-server`` process. Every method returns when it is done, and blocks until then; :attr:`aio` awaits.

    ``url`` stays the same over restarts.
    """

    def __init__(self, stage: Stage, member: MemberProcess) -> None:
        self._stage = stage
        self._member = member
        self.aio: AsyncServer = AsyncServer(stage, member)
        """The same, to await."""

    @override
    def __repr__(self) -> str:
        return f"<coord.testing.Server at {self.url}>"

    @property
    def url(self) -> str:
        """Where clients connect, as ``http://127.0.0.1:port``."""
        return self._member.client_url

    @property
    def endpoint(self) -> str:
        """The same as ``host:port``."""
        return self._member.endpoint

    @property
    def data_dir(self) -> Path:
        """Its data directory."""
        return self._member.data_dir

    @property
    def pid(self) -> int:
        """The id of its process. Raises MemberFailed when there is none."""
        return self._member.pid

    @property
    def is_running(self) -> bool:
        """Whether there is a process, paused or not."""
        return self._member.is_running

    def log_text(self) -> str:
        """Return what it has logged so far, over all its starts."""
        return self._member.log_text()

    def start(self) -> None:
        """Start it again after :meth:`stop` or :meth:`kill`; return once it serves. Raises MemberFailed."""
        self._stage.call(self._member.start())

    def stop(self) -> None:
        """SIGTERM: it ends in order. Raises MemberFailed if it does not end, and kills it then."""
        self._stage.call(_stop(self._member))

    def kill(self) -> None:
        """SIGKILL: what was not on disk is gone, and every connection is reset."""
        self._stage.call(self._member.kill())

    def restart(self) -> None:
        """Stop it if it runs, and start it again on the same data at the same port."""
        self._stage.call(_restart(self._member))

    def pause(self) -> None:
        """SIGSTOP: it holds still, and its connections stay."""
        self._member.pause()

    def resume(self) -> None:
        """SIGCONT: it goes on."""
        self._member.resume()


class AsyncServer:
    """The face of a :class:`Server` for coroutines, of any loop: the loop goes on while a method waits.

    A cancelled call gives up what it was doing; a start may then be half done, and is ended with the block.
    """

    def __init__(self, stage: Stage, member: MemberProcess) -> None:
        self._stage = stage
        self._member = member

    @override
    def __repr__(self) -> str:
        return f"<coord.testing.AsyncServer at {self.url}>"

    @property
    def url(self) -> str:
        """See :class:`Server`."""
        return self._member.client_url

    @property
    def endpoint(self) -> str:
        """See :class:`Server`."""
        return self._member.endpoint

    @property
    def data_dir(self) -> Path:
        """See :class:`Server`."""
        return self._member.data_dir

    @property
    def pid(self) -> int:
        """See :class:`Server`."""
        return self._member.pid

    @property
    def is_running(self) -> bool:
        """See :class:`Server`."""
        return self._member.is_running

    def log_text(self) -> str:
        """See :class:`Server`."""
        return self._member.log_text()

    async def start(self) -> None:
        """See :class:`Server`."""
        await self._stage.run(self._member.start())

    async def stop(self) -> None:
        """See :class:`Server`."""
        await self._stage.run(_stop(self._member))

    async def kill(self) -> None:
        """See :class:`Server`."""
        await self._stage.run(self._member.kill())

    async def restart(self) -> None:
        """See :class:`Server`."""
        await self._stage.run(_restart(self._member))

    async def pause(self) -> None:
        """See :class:`Server`."""
        self._member.pause()

    async def resume(self) -> None:
        """See :class:`Server`."""
        self._member.resume()


async def _stop(member: MemberProcess) -> None:
    if member.is_running:
        member.resume()  # a paused process hears nothing
        await member.stop()


async def _restart(member: MemberProcess) -> None:
    await _stop(member)
    await member.start()
