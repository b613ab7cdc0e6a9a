"""What the keeper shows: a line each, with the member's name in front, in its colour on a terminal."""

from __future__ import annotations

import json
import os
import sys
from typing import cast

import click

_COLOURS = ("cyan", "green", "magenta", "yellow", "blue", "bright_red")
# Of every line, and of little use to who reads along.
_LEFT_OUT = frozenset({"level", "ts", "caller", "msg"})
_LINE_CHARACTERS = 400


class Screen:
    """Standard output. Colours only on a terminal, and never with ``NO_COLOR``."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self._in_colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        self._colours = dict(zip(names, _COLOURS * len(names), strict=False))
        self._width = max(map(len, names), default=0)

    def say(self, text: str) -> None:
        """Show a line of the keeper's own."""
        click.echo(text)

    def tell(self, name: str, text: str) -> None:
        """Show a line about a member."""
        label = f"{name:<{self._width}} |"
        if self._in_colour:
            label = click.style(label, fg=self._colours.get(name))
        click.echo(f"{label} {text}")

    def log(self, name: str, line: bytes) -> None:
        """Show a line of a member's log."""
        self.tell(name, readable(line))


def readable(line: bytes) -> str:
    """Return a line of a server's log as a person reads it."""
    text = line.decode(errors="replace").rstrip("\n")
    try:
        found: object = json.loads(text)
    except ValueError:
        return text
    if not isinstance(found, dict):
        return text
    fields = cast("dict[str, object]", found)
    rest = " ".join(
        f"{key}={value if isinstance(value, str) else json.dumps(value)}"
        for key, value in fields.items()
        if key not in _LEFT_OUT
    )
    shown = f"{fields.get('level', '')!s:<5} {fields.get('msg', '')} {rest}".rstrip()
    return shown if len(shown) <= _LINE_CHARACTERS else shown[:_LINE_CHARACTERS] + "..."
