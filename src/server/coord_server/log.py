"""The server's log: one JSON object per line, with the keys and the words that etcd's tools look for.

A line has ``level``, ``ts`` (RFC 3339, UTC, milliseconds), ``caller`` (room/file.py:line), ``msg``, and
the fields of the event. Fields whose name says that they hold a secret are blanked.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_RANKS: Final = {"debug": 0, "info": 1, "warn": 2, "error": 3, "dpanic": 4, "panic": 4, "fatal": 4}
_SECRET_WORDS: Final = ("password", "secret", "token", "authorization", "private")
# This server's own settings with such a word that hold no secret.
_NOT_SECRET: Final = frozenset(("initial-cluster-token", "auth-token"))


class WallClock(Protocol):
    """What the log needs of a clock."""

    def wall(self) -> float:
        """Return seconds since the epoch."""
        ...


class Log:
    """Writes events as JSON lines through ``write``, which takes one whole line and must not raise."""

    def __init__(
        self, *, clock: WallClock, write: Callable[[str], None], level: str = "info"
    ) -> None:
        self._clock = clock
        self._write = write
        self._rank = _RANKS[level]

    def debug(self, msg: str, **fields: object) -> None:
        """Tell what only a developer looks for."""
        if self._rank <= 0:
            self._line("debug", msg, fields)

    def info(self, msg: str, **fields: object) -> None:
        """Tell what happened."""
        if self._rank <= 1:
            self._line("info", msg, fields)

    def warning(self, msg: str, **fields: object) -> None:
        """Tell what somebody should look at some day."""
        if self._rank <= _RANKS["warn"]:
            self._line("warn", msg, fields)

    warn = warning

    def error(self, msg: str, **fields: object) -> None:
        """Tell what failed."""
        if self._rank <= _RANKS["error"]:
            self._line("error", msg, fields)

    def fatal(self, msg: str, **fields: object) -> None:
        """Tell why the server ends now; ending is the caller's."""
        self._line("fatal", msg, fields)

    def _line(self, level: str, msg: str, fields: dict[str, object]) -> None:
        moment = _EPOCH + timedelta(seconds=self._clock.wall())
        line: dict[str, object] = {
            "level": level,
            "ts": moment.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z",
            "caller": _caller(),
            "msg": msg,
        }
        for name, value in fields.items():
            line[name.replace("_", "-")] = _shown(name.replace("_", "-"), value)
        self._write(json.dumps(line, default=str, ensure_ascii=False, separators=(",", ":")) + "\n")


def _shown(name: str, value: object) -> object:
    if name not in _NOT_SECRET and any(word in name.lower() for word in _SECRET_WORDS):
        return "***"
    if isinstance(value, tuple):
        return [str(part) for part in value]  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] - any tuple
    return value


def _caller() -> str:
    """Return room/file.py:line of the code that called the log."""
    frame = sys._getframe(3)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - as logging does; inspect costs ms
    parts = frame.f_code.co_filename.replace("\\", "/").split("/")
    return f"{'/'.join(parts[-2:])}:{frame.f_lineno}"


def silent(clock: WallClock) -> Log:
    """Return a log that keeps nothing, for embedded servers."""
    return Log(clock=clock, write=_drop, level="fatal")


def _drop(_line: str) -> None:
    return
