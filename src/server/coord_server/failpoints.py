"""Named places where a test may break the server: stop it dead, or let a step fail.

``POINT = failpoint("wal.before_sync")`` registers a place at import, ``POINT()`` marks it. While
nothing is armed a mark costs one attribute test. Never armed in production unless the operator sets
``COORD_SERVER_FAILPOINTS``, as ``name=crash@3;name=error(EIO)``: the action, and which visit triggers it.
"""

from __future__ import annotations

import errno
import os
import re
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Failpoint:
    """One place. ``action``, if set, runs at each visit and may raise."""

    __slots__ = ("action", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.action: Callable[[], None] | None = None

    def __call__(self) -> None:
        """Run the action that a test or the operator has set, if any."""
        if self.action is not None:
            self.action()


_points: dict[str, Failpoint] = {}


def failpoint(name: str) -> Failpoint:
    """Return the place called ``name``, registering it at the first call."""
    return _points.setdefault(name, Failpoint(name))


def names() -> list[str]:
    """Return every registered place, sorted."""
    return sorted(_points)


def arm(name: str, action: Callable[[], None]) -> None:
    """Run ``action`` at each visit of ``name``. Raises KeyError for a place that no code has."""
    _points[name].action = action


def disarm() -> None:
    """Take all actions away."""
    for point in _points.values():
        point.action = None


def configure(text: str) -> None:
    """Arm what ``COORD_SERVER_FAILPOINTS`` says. Raises ValueError with the part that makes no sense."""
    for part in filter(None, (piece.strip() for piece in text.split(";"))):
        match = _SPEC.fullmatch(part)
        if match is None or match["name"] not in _points:
            raise ValueError(f"no failpoint {part!r}; known: {', '.join(names())}")
        code = match["code"]
        if code is not None and not hasattr(errno, code):
            raise ValueError(f"no error number {code!r} in failpoint {part!r}")
        act = _crash if code is None else _raiser(getattr(errno, code))
        arm(match["name"], _on_visit(int(match["visit"] or 1), act))


_SPEC = re.compile(r"(?P<name>[a-z_.]+)=(?:crash|error\((?P<code>[A-Z0-9]+)\))(?:@(?P<visit>\d+))?")


def _crash() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _raiser(number: int) -> Callable[[], None]:
    def act() -> None:
        raise OSError(number, os.strerror(number))

    return act


def _on_visit(visit: int, act: Callable[[], None]) -> Callable[[], None]:
    left = visit

    def counted() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            act()

    return counted
