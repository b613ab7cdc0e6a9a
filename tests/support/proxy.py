"""A line on the test's own loop, which our tests change between two of their turns; users have ``coord.testing.proxy``."""

from __future__ import annotations

from coord.testing.chaos import ChaosProxy, Links
from coord.testing.chaos.links import CLIENTS, HELD

_NAME, _STRANDED = "server", "stranded"


class Proxy(ChaosProxy):
    """Forwards to ``target`` (``127.0.0.1:port``) until told otherwise.

    ``endpoint`` stays the same over ``refuse`` and ``accept``.
    """

    def __init__(self, target: str) -> None:
        self._line = Links()
        super().__init__(_NAME, int(target.rpartition(":")[2]), self._line)

    @property
    def endpoint(self) -> str:
        """Where clients connect."""
        return f"127.0.0.1:{self.port}"

    @property
    def connections(self) -> int:
        """Connections that were ever made."""
        return self.opened

    @property
    def open_connections(self) -> int:
        """Connections that run through it now."""
        return len(self.callers)

    @property
    def bytes_up(self) -> int:
        """Bytes that clients sent and that passed."""
        return self.bytes_in

    def cut(self) -> None:
        """Reset every connection."""
        self.reset()

    def hold_requests(self) -> None:
        """Keep what clients send from now on."""
        self._line.set(CLIENTS, _NAME, HELD)

    def hold_answers(self) -> None:
        """Keep what the server sends from now on."""
        self._line.set(_NAME, CLIENTS, HELD)

    def strand(self) -> None:
        """Let nothing through any more on the connections that exist, and keep them open; new ones pass."""
        for connection in self._connections:
            connection.caller = _STRANDED
        self._line.set(_STRANDED, _NAME, HELD)
        self._line.set(_NAME, _STRANDED, HELD)

    def pass_on(self) -> None:
        """Forward again, first what was held."""
        self._line.heal()
