"""Who is at the other end of a connection, and whether they may stay.

TLS tells that a certificate is sound. Some programs let in only some of those who have one; the context of
such a program carries the question, so that whoever listens or connects with it asks, and none forgets to.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias, cast

from coord.rpc.service import PeerInfo

if TYPE_CHECKING:
    import asyncio


class PeerRefused(ConnectionError):
    """Whoever is at the other end may not stay, whatever their certificate is worth; the text says why."""


Admit: TypeAlias = Callable[[PeerInfo], None]
"""Asked once per connection, after the handshake and before a byte of the other end is looked at.

Raises PeerRefused for one that may not stay, and nothing else; the connection is cut then.
"""


class AdmittingContext(ssl.SSLContext):
    """A context whose connections are kept only if ``admit``, where there is one, lets them pass.

    `RpcServer` and `Channel` ask it. Nothing else does: ``ssl`` itself knows no such question.
    """

    admit: Admit | None = None


def admission_of(context: ssl.SSLContext | None) -> Admit | None:
    """Return what must be asked about connections that are made with a context, None if nothing."""
    return context.admit if isinstance(context, AdmittingContext) else None


def peer_of(transport: asyncio.BaseTransport) -> PeerInfo:
    """Return who is at the other end of a transport."""
    name = transport.get_extra_info("peername")
    if isinstance(name, tuple):
        parts = cast("tuple[object, ...]", name)
        address = f"[{parts[0]}]:{parts[1]}" if ":" in str(parts[0]) else f"{parts[0]}:{parts[1]}"
    else:
        address = str(name or "")
    certificate = transport.get_extra_info("peercert")
    return PeerInfo(
        address=address,
        tls=transport.get_extra_info("sslcontext") is not None,
        certificate=certificate or None,
    )
