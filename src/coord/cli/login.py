"""Who a command is to the store: ``--user`` and ``--password`` as etcdctl reads them, and the question for a password.

A user without a password is asked for it: unseen on a terminal, else by the first line of standard input.
Where etcdctl would go on as nobody when that is empty, the command ends.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from coord.cli.options import CommandFailed
from coord.target import TargetKind, parse_target

if TYPE_CHECKING:
    from coord.cli.options import Settings

_STDIN = 0
_LONGEST = 4096  # bytes; whatever pipes more than this into the question answers with no password


def settle(settings: Settings) -> None:
    """Turn ``user`` and ``password`` into what ``coord.connect()`` takes. Safe to call twice.

    Before there is a loop: it may wait for an answer.
    As in the SDK, variables yield to what the URL says, and do not count for ``local:`` and ``memory:``.
    A password without a user is left out, as in etcdctl.
    Raises :class:`CommandFailed` when there is no password, :class:`coord.InvalidArgument` for a wrong target.
    """
    target = parse_target(settings.endpoints)
    in_url, is_remote = target.credentials, target.kind is TargetKind.ENDPOINTS
    if in_url is not None or not is_remote:
        _drop_variable(settings, "user")
    if (in_url is not None and in_url.password is not None) or not is_remote:
        _drop_variable(settings, "password")
    if in_url is not None:
        # Whatever stands in both, connect() turns down.
        if in_url.password is None and not settings.user and not settings.password:
            settings.password = _answered(in_url.user, _ask())
    elif not settings.user:
        settings.user = settings.password = None
    elif not settings.password:
        settings.user, colon, password = settings.user.partition(":")
        settings.password = _answered(settings.user, password if colon else _ask())


def _drop_variable(settings: Settings, name: str) -> None:
    if name in settings.from_variables:
        setattr(settings, name, None)


def _answered(user: str, password: str) -> str:
    if not user or not password:
        raise CommandFailed(f"no password for user {user!r}" if user else "--user names nobody")
    return password


def _ask() -> str:
    if os.isatty(_STDIN):
        from getpass import getpass  # only terminals need what it loads

        try:
            return getpass("Password: ")
        except EOFError:  # Ctrl-D
            return ""
    line = bytearray()
    # Byte by byte: what stands behind the line is for the command, or for the child that it runs.
    while len(line) < _LONGEST and (byte := os.read(_STDIN, 1)) not in (b"", b"\n"):
        line += byte
    return os.fsdecode(bytes(line))
