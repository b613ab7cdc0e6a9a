"""Servers that need no administrator: ``memory:`` inside this process, ``local:`` one per user and machine.

Coordination is a promise between processes, so the one mistake to rule out here is two servers where everybody
believes there is one.
``memory:`` is therefore private by definition: a fresh store per client, on the client's own loop, reached through
a network that exists only inside the process; no other process could mistake it for a shared one.
``local:`` is shared by definition: whoever comes first starts a ``coord-server`` process behind a unix socket, and
everybody after that finds it.

What keeps ``local:`` single:

* A *place* is one directory, and everything else follows from it: the data, the socket, the log, the start lock.
  Two programs that name the same directory in different words mean the same place.
* A server is started only under the start lock of its place, by who has looked for a living one under that lock.
* The server itself locks its data; a new one is not started before the old one has let go of them, so a server that
  is about to leave cannot remove the socket of the next.
* Locks are of the kernel and die with their process; a file that is left behind means nothing.

A local server leaves when nobody was connected for a while (60 s; ``COORD_LOCAL_IDLE``, in seconds, 0 for never).
Whoever connects next starts it again on the same data, and so does a client that is there already and finds its
connection gone.

:func:`start` is the third kind: a server for tests and tools, in this process and on a real port.

This is one of three rooms that know ``coord_server``; it is loaded only by those who start one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from coord.embed.memory import EmbeddedServer, open_memory, start
from coord.runtime import invariant
from coord.target import TargetKind

if TYPE_CHECKING:
    from coord.runtime import Env
    from coord.target import Opened, Target

__all__ = ["EmbeddedServer", "open_target", "start"]


async def open_target(target: Target, env: Env) -> Opened:
    """Find or start the server behind ``local:`` or ``memory:``, on the running loop.

    Raises :class:`coord.errors.Unavailable` with the server's own words when it does not start, and
    :class:`coord.errors.InvalidArgument` for a place that cannot be used.
    A cancelled call may leave a local server behind, which leaves by itself.
    """
    if target.kind is TargetKind.MEMORY:
        return await open_memory(env)
    invariant(target.kind is TargetKind.LOCAL, "endpoints are not started")
    from coord.embed.local import open_local  # processes, locks and signals: not for memory:

    return await open_local(target.path, env)
