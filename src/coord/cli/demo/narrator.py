"""What the audience sees: numbered steps, what happens in them, and the claims that were checked."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_STYLES = {"title": "bold cyan", "say": "", "claim": "green", "failure": "bold red", "note": "dim"}


class ClaimFailed(Exception):
    """Something that the story claims did not hold."""

    def __init__(self, claim: str, found: str) -> None:
        self.claim = claim
        self.found = found
        super().__init__(f"claim failed: {claim}" + (f" (found: {found})" if found else ""))


class Narrator:
    """Prints the story on stdout; in colours when that is a terminal and ``NO_COLOR`` is not set."""

    def __init__(self) -> None:
        self._write = _writer()
        self._began = time.monotonic()
        self._steps = 0
        self.checked: int = 0

    def elapsed(self) -> float:
        """Seconds since the story began."""
        return time.monotonic() - self._began

    def title(self, text: str) -> None:
        """Print the headline."""
        self._write(text, "title")

    def step(self, text: str) -> None:
        """Begin the next step."""
        self._steps += 1
        self._write(f"\n{self._steps}. {text}", "title")

    def say(self, text: str) -> None:
        """Tell what happens."""
        self._write(f"   {text}", "say")

    def note(self, text: str) -> None:
        """Add what only the curious need."""
        self._write(f"   {text}", "note")

    def check(self, claim: str, holds: object, *, found: str = "") -> None:
        """Print a claim that was checked. Raises :class:`ClaimFailed` unless it ``holds``."""
        if not holds:
            raise ClaimFailed(claim, found)
        self.checked += 1
        self._write(f"   [ok] {claim}", "claim")

    def fail(self, text: str) -> None:
        """Say why the story ends early."""
        self._write(f"   [FAILED] {text}", "failure")


def _writer() -> Callable[[str, str], None]:
    """Return what prints a line in a style."""
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        return lambda text, _style: print(text, flush=True)  # noqa: T201 - the demo's output
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    return lambda text, style: console.print(text, style=_STYLES[style], markup=False)
