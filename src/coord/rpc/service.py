"""What a server offers: methods by path, and how the code behind them is called and answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeAlias

from coord.rpc.status import RpcError, StatusCode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from coord.rpc.metadata import Metadata
    from coord.rpc.server_core import ServerConnection
    from coord.rpc.server_stream import ServerStream


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerInfo:
    """Who is at the other end. ``certificate`` is what ``ssl`` returns, verified, if one was shown."""

    address: str = ""
    tls: bool = False
    certificate: dict[str, object] | None = None


class RequestHead:
    """What came with a request besides its message. Values; do not change them.

    Objects are shared by requests with equal header blocks, and ``memo`` is shared by requests
    whose headers differ in their timeout only: a place for whatever a handler derives from
    the headers, under a key of its own.
    """

    __slots__ = ("authority", "memo", "metadata", "path", "timeout_s")

    def __init__(
        self,
        path: str,
        authority: str,
        metadata: Metadata,
        timeout_s: float | None,
        memo: dict[object, object],
    ) -> None:
        self.path: str = path
        self.authority: str = authority
        self.metadata: Metadata = metadata
        self.timeout_s: float | None = timeout_s
        self.memo: dict[object, object] = memo

    def first(self, name: str) -> str | bytes | None:
        """Return the first value of a metadata key in lower case, None without one."""
        for key, value in self.metadata:
            if key == name:
                return value
        return None


class Responder(Protocol):
    """Where the answer of a unary call goes, by its number."""

    def respond(self, stream_id: int, message: bytes) -> None:
        """End the call with OK and one message."""
        ...

    def fail(self, stream_id: int, code: int, message: str, trailers: Metadata = ()) -> None:
        """End the call with a status."""
        ...


UnaryHandler: TypeAlias = "Callable[[ServerConnection, int, RequestHead, bytes], bytes | None]"
StreamHandler: TypeAlias = "Callable[[ServerStream], None]"


@dataclass(frozen=True, slots=True)
class Method:
    """One method and the way it is served: exactly one of ``unary`` and ``stream`` is there.

    ``unary`` gets the whole request. It returns the answer, or None if somebody will call
    ``respond`` or ``fail`` of the connection exactly once later (ignored if the call has gone by
    then), or raises RpcError. ``stream`` is called when the request's headers have arrived, and
    sets the stream's callbacks. Neither may block.
    """

    path: str
    unary: UnaryHandler | None = None
    stream: StreamHandler | None = None


@dataclass(frozen=True)
class Registry:
    """The methods of a server, by path. Raises ValueError for two with one path."""

    methods: Iterable[Method] = ()
    _by_path: dict[str, Method] = field(default_factory=dict[str, Method], init=False, repr=False)
    _services: set[str] = field(default_factory=set[str], init=False, repr=False)

    def __post_init__(self) -> None:
        for method in self.methods:
            if method.path in self._by_path:
                raise ValueError(f"two methods at {method.path}")
            self._by_path[method.path] = method
            self._services.add(method.path.rpartition("/")[0])

    def __iter__(self) -> Iterator[Method]:
        """Iterate over the methods in the order they were given."""
        return iter(self._by_path.values())

    def find(self, path: str) -> Method:
        """Return the method. Raises RpcError(UNIMPLEMENTED) in grpc-go's words."""
        method = self._by_path.get(path)
        if method is not None:
            return method
        service, _, name = path.rpartition("/")
        if not service:
            text = f'malformed method name: "{path}"'
        elif service in self._services:
            text = f"unknown method {name} for service {service[1:]}"
        else:
            text = f"unknown service {service[1:]}"
        raise RpcError(StatusCode.UNIMPLEMENTED, text)
