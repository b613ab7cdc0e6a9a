"""What happened, as one number that two runs of a seed must share, and as lines for people.

The number runs over (time, node, kind of handle), each packet and each operation on a disk. Lines are
kept only when somebody asked, since most runs are never looked at.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

_pack: Final = struct.Struct("<dQQ").pack
# Lines kept of one run; the end of a run says more about its failure than the beginning.
_MAX_LINES: Final = 200_000


class Trace:
    """The running hash of one run, and its lines if ``keep_lines``."""

    __slots__ = ("_kinds", "_lines", "describe", "events", "value")

    def __init__(self, *, keep_lines: bool = False) -> None:
        self.value: int = 0
        self.events: int = 0
        self._kinds: dict[str, int] = {}
        self._lines: list[str] | None = [] if keep_lines else None
        self.describe: Callable[[str], str] = _nothing
        """What to add to a line about a node, by its name."""

    @property
    def keeps_lines(self) -> bool:
        """Whether lines are kept."""
        return self._lines is not None

    @property
    def lines(self) -> list[str]:
        """The lines kept so far."""
        return self._lines or []

    def note(self, now: float, node: str, kind: str, detail: int = 0) -> None:
        """Count an event into the hash; ``detail`` is a size or a checksum."""
        kinds = self._kinds
        code = kinds.get(kind)
        if code is None:
            # Not hash(): that differs from process to process.
            code = kinds[kind] = zlib.crc32(kind.encode())
        where = kinds.get(node)
        if where is None:
            where = kinds[node] = zlib.crc32(node.encode())
        self.value = zlib.crc32(_pack(now, where << 32 | code, detail), self.value)
        self.events += 1
        if self._lines is not None:
            self.say(now, node, f"{kind} {detail}" if detail else kind)

    def say(self, now: float, node: str, text: str) -> None:
        """Keep a line, which does not count into the hash."""
        lines = self._lines
        if lines is not None:
            if len(lines) >= _MAX_LINES:
                del lines[: _MAX_LINES // 2]
            lines.append(f"{now:12.6f} {node:8} {self.describe(node):28} {text}")


def _nothing(_node: str) -> str:
    return ""
