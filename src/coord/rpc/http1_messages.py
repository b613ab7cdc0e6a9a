"""Requests, answers and bounds of HTTP/1.1: what handlers see. The protocol itself is loaded with the first client."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Http1Request:
    """A whole request: header names in lower case, values as text in Latin-1, body as it came."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""

    def header(self, name: str) -> str | None:
        """Return the first value of a header, by its name in lower case."""
        return next((value for key, value in self.headers if key == name), None)


@dataclass(frozen=True, slots=True)
class Http1Response:
    """An answer; Content-Length and Connection are added, and a HEAD's body is left out."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Http1Limits:
    """Bounds of one connection, in bytes."""

    # Request line and headers together: 431 beyond.
    max_header_bytes: int = 16 * 1024
    # Beyond: 413. A gateway request is base64 in JSON, so a third more than the gRPC message.
    max_body_bytes: int = 2 * 1024 * 1024
    # What may wait behind a request that is being answered; the connection is closed beyond.
    max_pipelined_bytes: int = 64 * 1024


Respond: TypeAlias = Callable[[Http1Response], None]
Http1Handler: TypeAlias = Callable[[Http1Request, Respond], None]
