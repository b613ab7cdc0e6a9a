"""``local:``: reach the server of this user and machine, and start it whenever it is not there."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING

from coord.embed.launch import ensure_running
from coord.embed.place import Place, find_place
from coord.errors import CoordError, InvalidArgument
from coord.runtime import Address, Listener, UnixAddress
from coord.target import Endpoint, Opened

if TYPE_CHECKING:
    import asyncio
    import ssl
    from collections.abc import Callable

    from coord.runtime import Env, Net, Offload

IDLE_VARIABLE = "COORD_LOCAL_IDLE"
_IDLE_S = 60.0


async def open_local(path: str | None, env: Env) -> Opened:
    """Find or start the server of a place; see :func:`coord.embed.open_target`."""
    idle_s = _idle_seconds()
    place = await env.offload.run(find_place, path)
    await env.offload.run(ensure_running, place, idle_s)
    endpoint = Endpoint(
        address=UnixAddress(place.socket), tls=False, text=f"local:{place.directory}"
    )
    return Opened(
        endpoints=(endpoint,), net=LocalNet(env.net, env.offload, place, idle_s), close=_keep
    )


async def _keep() -> None:
    """Leave the server to the others; it notices by itself when nobody is left."""


def _idle_seconds() -> float:
    text = os.environ.get(IDLE_VARIABLE, "").strip()
    try:
        seconds = float(text) if text else _IDLE_S
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise InvalidArgument(f"{IDLE_VARIABLE} is a number of seconds, 0 for never, not {text!r}")
    return seconds


class LocalNet:
    """The machine's network, where connecting to a local server that has gone starts it again."""

    def __init__(self, net: Net, offload: Offload, place: Place, idle_s: float) -> None:
        self._net = net
        self._offload = offload
        self._place = place
        self._idle_s = idle_s

    async def connect(
        self,
        factory: Callable[[], asyncio.Protocol],
        address: Address,
        *,
        tls: ssl.SSLContext | None = None,
        server_name: str | None = None,
    ) -> tuple[asyncio.Transport, asyncio.Protocol]:
        """Connect, after starting the server if need be. Raises ``OSError``."""
        try:
            return await self._net.connect(factory, address, tls=tls, server_name=server_name)
        except (FileNotFoundError, ConnectionRefusedError):
            pass
        try:
            await self._offload.run(ensure_running, self._place, self._idle_s)
        except CoordError as error:
            raise ConnectionRefusedError(str(error)) from error
        return await self._net.connect(factory, address, tls=tls, server_name=server_name)

    async def listen(
        self,
        factory: Callable[[], asyncio.Protocol],
        address: Address,
        *,
        tls: ssl.SSLContext | None = None,
    ) -> Listener:
        """Listen on the machine's network."""
        return await self._net.listen(factory, address, tls=tls)
