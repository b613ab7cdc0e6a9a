"""When a stream says nothing: ask, and give it up if there is no answer.

A connection that is gone is found by the pings of HTTP/2.
They say nothing about a server that answers them while its watches are stuck, or about a proxy that kept our half of
the stream and lost the other; for those the stream itself has to say something.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulse:
    """How patient a heartbeat is, in seconds.

    After ``quiet_s`` to twice that without a message it asks; without an answer for ``answer_s`` the stream is dead.
    """

    quiet_s: float = 10.0
    answer_s: float = 5.0


class Heartbeat:
    """The heartbeat of one stream: ``ask()`` sends something that is always answered, ``give_up()`` ends the stream."""

    def __init__(
        self, pulse: Pulse, *, ask: Callable[[], object], give_up: Callable[[], object]
    ) -> None:
        self._pulse = pulse
        self._ask = ask
        self._give_up = give_up
        self._heard = False
        self._asked = False
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin, on the running loop."""
        self._wait(self._pulse.quiet_s)

    def heard(self) -> None:
        """Note a message, whatever it says."""
        self._heard = True
        if self._asked:
            self._asked = False
            self.stop()
            self._wait(self._pulse.quiet_s)

    def stop(self) -> None:
        """End. Safe to call twice."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wait(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_at(loop.time() + seconds, self._look, loop.time() + seconds)

    def _look(self, due: float) -> None:
        if self._heard:
            self._heard = False
            self._wait(self._pulse.quiet_s)
            return
        # A loop that stood still has not listened either: what it did not hear may be in its sockets.
        late = asyncio.get_running_loop().time() - due > self._pulse.answer_s / 2
        if self._asked and not late:
            self._timer = None
            self._give_up()
            return
        self._ask()
        self._asked = True
        self._wait(self._pulse.answer_s)
