"""What ``--help`` and ``--version`` print."""

from __future__ import annotations

import platform
import sys
import textwrap
from typing import TYPE_CHECKING, Final

from coord_server import __version__
from coord_server.flags import FLAGS, Standing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from coord_server.flags import Flag

# The release whose API, texts and command line this server follows; clients branch on it.
ETCD_VERSION: Final = "3.5.21"
ETCD_CLUSTER_VERSION: Final = "3.5.0"

_COLUMN: Final = 38
_WIDTH: Final = 110


def version_text() -> str:
    """Return the lines of ``--version``: etcd's four in etcd's order, with ours between them."""
    return (
        f"etcd Version: {ETCD_VERSION}\n"
        f"coord-server Version: {__version__}\n"
        "Git SHA: Not provided (use the coord-server version)\n"
        f"Python Version: {platform.python_implementation()} {platform.python_version()}\n"
        f"Python OS/Arch: {sys.platform}/{platform.machine()}\n"
    )


def help_text() -> str:
    """Return all working flags by section, then the names of those that are only accepted."""
    return "\n".join(_help_lines()) + "\n"


def _help_lines() -> Iterator[str]:
    yield "Usage: coord-server [--FLAG=VALUE ...]"
    yield ""
    yield "An etcd v3 compatible store for coordination. Flags are etcd's; -flag and --flag are the same,"
    yield "values follow after a blank or an equals sign. Each flag is also a variable, COORD_FLAG_NAME or"
    yield "ETCD_FLAG_NAME, and a key of --config-file. Of these the first given counts, in this order."
    sections: dict[str, list[Flag]] = {}
    for flag in FLAGS.values():
        if flag.standing is Standing.WORKS:
            sections.setdefault(flag.section, []).append(flag)
    for section, flags in sections.items():
        yield ""
        yield f"{section}:"
        for flag in flags:
            yield from _entry(flag)
    yield ""
    yield "Also:"
    yield f"  {'--version':<{_COLUMN}}print versions and exit"
    yield f"  {'--help':<{_COLUMN}}print this and exit"
    yield ""
    yield "Accepted, without effect in this version (one warning line in the log):"
    inert = [f.name for f in FLAGS.values() if f.standing is Standing.INERT]
    yield from _wrapped("  ", " ".join(inert))
    yield ""
    yield "Known, and refused unless left at the default:"
    refused = [f.name for f in FLAGS.values() if f.standing is Standing.REFUSED]
    yield from _wrapped("  ", " ".join(refused))


def _entry(flag: Flag) -> Iterator[str]:
    shown = f"--{flag.name}"
    if not flag.kind.is_switch:
        shown += f"={flag.kind.label.upper()}"
    text = flag.help
    if flag.default and flag.default != "false":
        text += f" [{flag.default}]"
    lines = _wrapped(" " * (_COLUMN + 2), text)
    first = next(lines).strip()
    if len(shown) >= _COLUMN:
        yield f"  {shown}"
        yield " " * (_COLUMN + 2) + first
    else:
        yield f"  {shown:<{_COLUMN}}{first}"
    yield from lines


def _wrapped(indent: str, text: str) -> Iterator[str]:
    yield from textwrap.wrap(
        text, _WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
    )
