"""A line between a client and a server, which can be cut, swallow, and be slow."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from typing_extensions import override

from coord.testing.chaos import ChaosProxy, Links, Rule
from coord.testing.chaos.links import CLIENTS, PASS
from coord.testing.local.stage import Opening, Stage

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from pathlib import Path

_NAME = "server"


def proxy(target: str) -> Opening[Proxy, Proxy]:
    """Run a TCP proxy in front of ``target`` for as long as the block runs.

        with coord.testing.proxy(server.endpoint) as line, coord.sync.connect(line.endpoint) as client: ...

    ``target`` is ``host:port`` or ``http://host:port`` of a server of any kind on this machine.
    It knows bytes only: for faults of single requests see :class:`coord.testing.Faults`.
    """
    host, _, port = target.rpartition("://")[2].rstrip("/").rpartition(":")
    if host not in {"127.0.0.1", "localhost"} or not port.isdigit():
        raise ValueError(f"a proxy stands before 127.0.0.1:port, not {target!r}")

    @contextlib.asynccontextmanager
    async def run(stage: Stage, _: Path) -> AsyncGenerator[Proxy]:
        links = Links()
        async with ChaosProxy(_NAME, int(port), links) as line:
            yield Proxy(stage, line, links)

    return Opening(run, lambda face: face)


class Proxy:
    """A line between clients and one server.

    Its methods return at once when the line is changed; they may be called from any thread and from coroutines.
    What :meth:`cut`, :meth:`blackhole` and :meth:`latency` set lasts until :meth:`heal`, or until another replaces it;
    what :meth:`refuse` sets, until :meth:`accept` or :meth:`heal`.
    """

    def __init__(self, stage: Stage, line: ChaosProxy, links: Links) -> None:
        self._stage = stage
        self._line = line
        self._links = links

    @override
    def __repr__(self) -> str:
        return f"<coord.testing.Proxy at {self.endpoint}>"

    @property
    def endpoint(self) -> str:
        """Where clients connect, as ``host:port``."""
        return f"127.0.0.1:{self._line.port}"

    @property
    def url(self) -> str:
        """The same as ``http://host:port``."""
        return f"http://{self.endpoint}"

    @property
    def connections(self) -> int:
        """How many connections run through it now."""
        return len(self._line.callers)

    def refuse(self) -> None:
        """Refuse new connections, as a server that is not there; those that there are stay."""
        self._stage.call(self._line.refuse())

    def accept(self) -> None:
        """Take connections again."""
        self._stage.call(self._line.accept())

    def reset(self) -> None:
        """Reset the connections that there are; new ones are made as before."""
        self._do(self._line.reset)

    def cut(self) -> None:
        """Reset all connections, and each new one as soon as something is sent on it."""
        self._set(Rule(reset=True), Rule(reset=True))

    def blackhole(self, *, requests: bool = True, answers: bool = True) -> None:
        """Keep what is sent, in both directions or one: connections stay, and nobody hears anything.

        After :meth:`heal` it arrives, unless an end has given up meanwhile.
        """
        self._set(Rule(held=requests), Rule(held=answers))

    def latency(self, seconds: float, *, jitter: float = 0.0) -> None:
        """Let bytes take ``seconds`` and up to ``jitter`` more, in each direction."""
        rule = Rule(delay_s=seconds, jitter_s=jitter)
        self._set(rule, rule)

    def heal(self) -> None:
        """Let everything pass, and everybody connect."""
        self._set(PASS, PASS)
        self.accept()

    def _set(self, up: Rule, down: Rule) -> None:
        def change() -> None:
            self._links.set(CLIENTS, _NAME, up)
            self._links.set(_NAME, CLIENTS, down)

        self._do(change)

    def _do(self, change: Callable[[], None]) -> None:
        async def turn() -> None:
            change()

        self._stage.call(turn())
