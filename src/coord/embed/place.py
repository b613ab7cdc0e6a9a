"""Where a local server lives: one directory, and what follows from it."""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass

from coord.errors import InvalidArgument

# Linux takes 108 bytes for the path of a socket, macOS 104, both with a zero at the end.
_SOCKET_PATH_MAX_BYTES = 100
# Not $TMPDIR: a program started by cron and one started at a desk would look in different places.
_SHORT_ROOT = "/tmp"  # noqa: S108 - a directory of our own below it, whose owner and mode are checked
_PRIVATE = 0o700
_WRITABLE_BY_OTHERS = 0o022


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A directory with a local server's files, and the path of its socket."""

    directory: str
    socket: str

    @property
    def data_dir(self) -> str:
        """What survives."""
        return os.path.join(self.directory, "data")

    @property
    def data_lock(self) -> str:
        """The file that a living server holds locked."""
        return os.path.join(self.data_dir, "member", "LOCK")

    @property
    def start_lock(self) -> str:
        """The file that is locked by who looks for a server, and starts one."""
        return os.path.join(self.directory, "start.lock")

    @property
    def log(self) -> str:
        """The server's log, one JSON object per line."""
        return os.path.join(self.directory, "server.log")


def find_place(path: str | None) -> Place:
    """Return the place at ``path``, or the default one of this user; its directory exists then, for us alone.

    Raises :class:`InvalidArgument` when it cannot be made, or others could write to it.
    """
    directory = os.path.realpath(path if path is not None else _default_directory())
    _make_private(directory)
    socket = os.path.join(directory, "server.sock")
    if len(os.fsencode(socket)) > _SOCKET_PATH_MAX_BYTES:
        short = os.path.join(_SHORT_ROOT, f"coord-{os.geteuid()}")
        _make_private(short)
        digest = hashlib.sha256(os.fsencode(directory)).hexdigest()[:32]
        socket = os.path.join(short, f"{digest}.sock")
    return Place(directory=directory, socket=socket)


def _default_directory() -> str:
    state = os.environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(
        state
    ):  # also what the specification of base directories says about relative ones
        state = os.path.join(os.path.expanduser("~"), ".local", "state")
    return os.path.join(state, "coord")


def _make_private(directory: str) -> None:
    try:
        os.makedirs(directory, mode=_PRIVATE, exist_ok=True)
        found = os.lstat(directory)
    except OSError as error:
        raise InvalidArgument(
            f"local: cannot use directory {directory}: {error.strerror or error};"
            " local:/path keeps the server elsewhere"
        ) from error
    if not stat.S_ISDIR(found.st_mode):
        raise InvalidArgument(f"local: {directory} is not a directory")
    if found.st_uid != os.geteuid():
        raise InvalidArgument(f"local: directory {directory} belongs to another user")
    if found.st_mode & _WRITABLE_BY_OTHERS:
        raise InvalidArgument(
            f"local: directory {directory} is writable by other users: chmod go-w it, or take another"
        )
