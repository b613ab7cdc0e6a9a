"""Questions between members: unary methods by name, bytes in and bytes out.

What the bytes mean is the server's affair; usually they are etcd's own messages.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, TypeAlias

from coord.rpc.async_calls import async_unary
from coord.rpc.status import RpcError, StatusCode
from coord_server.peer.limits import MeshLimits
from coord_server.peer.link import SERVICE
from coord_server.peer.local import dial

if TYPE_CHECKING:
    import ssl

    from coord.rpc.async_calls import AsyncCall
    from coord.rpc.service import Method, RequestHead
    from coord.runtime import Env
    from coord_server.peer.handshake import Hello
    from coord_server.raft.types import NodeId

AskHandler: TypeAlias = Callable[["NodeId", bytes], Awaitable[bytes]]
AnyoneHandler: TypeAlias = Callable[[bytes], Awaitable[bytes]]

_KIND: Final = re.compile(r"[a-z][a-z0-9-]{0,63}")
_NO_LIMITS: Final = MeshLimits()


def ask_path(kind: str) -> str:
    """Return the path of a question. Raises ValueError for a name that is no word in lower case."""
    if _KIND.fullmatch(kind) is None:
        raise ValueError(f"{kind!r} is no name of a question between members")
    return SERVICE + kind


class Answers:
    """The questions that this member answers. ``admit`` returns who asks, or raises RpcError."""

    def __init__(self, admit: Callable[[RequestHead], Hello]) -> None:
        self._admit = admit
        self._methods: dict[str, Method] = {}

    def add(self, kind: str, handler: AskHandler) -> None:
        """Answer a question of members. Raises ValueError for a name that is taken or no name."""

        async def answer(call: AsyncCall, request: bytes) -> bytes:
            hello = self._admit(call.head)
            return await handler(hello.sender, request)

        self._put(kind, async_unary(ask_path(kind), answer))

    def add_for_anyone(self, kind: str, handler: AnyoneHandler) -> None:
        """Answer a question of those who are no members yet, too."""

        async def answer(_call: AsyncCall, request: bytes) -> bytes:
            return await handler(request)

        self._put(kind, async_unary(ask_path(kind), answer))

    def _put(self, kind: str, method: Method) -> None:
        if kind in self._methods:
            raise ValueError(f"the question {kind!r} is answered already")
        self._methods[kind] = method

    def methods(self) -> list[Method]:
        """Return the methods, for the listener's registry."""
        return list(self._methods.values())


async def ask_url(
    url: str,
    kind: str,
    request: bytes,
    *,
    env: Env,
    timeout: float,
    tls: ssl.SSLContext | None = None,
) -> bytes:
    """Ask whoever listens at ``url`` a question that anyone may ask, within ``timeout`` seconds.

    Raises RpcError.
    """
    path = ask_path(kind)
    end = env.clock.mono() + timeout
    channel = await dial(url, env=env, tls=tls, limits=_NO_LIMITS, timeout=timeout)
    try:
        left = end - env.clock.mono()
        if left <= 0:
            text = f"{url} was connected to too late"
            raise RpcError(StatusCode.DEADLINE_EXCEEDED, text, sent=False)
        return await channel.unary(path, request, timeout=left)
    finally:
        await channel.close()
