"""What a connection is encrypted with, read again when its files have changed.

Certificates live for hours where machines issue them, clients for months.
Files are looked at before each new connection; connections that exist keep what they began with.
Files are seldom replaced all at once, so whatever cannot be loaded is told once and leaves the last good ones in use:
the next connection tries again.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, TypeVar

from coord.errors import InvalidArgument
from coord.rpc.tls import client_context
from coord.runtime import file_stamps

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from coord.runtime import Env, FileStamp
    from coord.target import TlsConfig

T = TypeVar("T")


def context_of(tls: TlsConfig) -> ssl.SSLContext:
    """Load the files of a configuration. Raises ValueError that names the one at fault."""
    return client_context(tls.ca, tls.cert, tls.key, verify=tls.verify)


class Reloading(Generic[T]):
    """A value made from the files of a configuration by ``load``, which raises ValueError for unfit ones.

    Reads them at once; raises :class:`InvalidArgument` then.
    """

    def __init__(self, tls: TlsConfig, env: Env, load: Callable[[TlsConfig], T]) -> None:
        self._tls = tls
        self._env = env
        self._load = load
        self._paths = tuple([path for path in (tls.ca, tls.cert, tls.key) if path is not None])
        # Before each loading: a change during it is then seen the next time.
        self._stamps = file_stamps(self._paths)
        self._unfit: tuple[FileStamp | None, ...] | None = None
        self._turn: asyncio.Lock = asyncio.Lock()
        try:
            self.current: T = load(tls)
        except ValueError as error:
            raise InvalidArgument(f"TLS: {error}") from error

    async def fresh(self) -> T:
        """Return the value for a new connection. Does its reading off the loop, and never fails."""
        if not self._paths:  # the system's authorities, which are read once
            return self.current
        async with self._turn:
            stamps = await self._env.offload.run(file_stamps, self._paths)
            if stamps not in (self._stamps, self._unfit):
                try:
                    self.current = await self._env.offload.run(self._load, self._tls)
                except ValueError as error:
                    self._unfit = stamps
                    _tell(error)
                else:
                    self._stamps, self._unfit = stamps, None
            return self.current


def _tell(error: ValueError) -> None:
    """Say it where applications listen: the calls of the client go on, and would hide it until it is too late."""
    asyncio.get_running_loop().call_exception_handler(
        {
            "message": f"coord: changed TLS files are unfit, the last good ones stay in use: {error}",
            "exception": error,
        }
    )
