"""Custom metadata of a call, as the application sees it and as headers (gRPC over HTTP/2).

A key occurs as often as it has values, in order. Values of keys that end in ``-bin`` are bytes and
travel as base64; all others are text of printable ASCII.
"""

from __future__ import annotations

import re
from base64 import b64encode
from binascii import Error as Base64Error
from binascii import a2b_base64
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable

Metadata: TypeAlias = tuple[tuple[str, str | bytes], ...]

_KEY: Final = re.compile(r"[0-9a-z_.-]+")
_TEXT: Final = re.compile(r"[ -~]*")

# Headers of the protocol and of the connection; none of them is the application's to send.
_RESERVED: Final = frozenset(
    (
        "content-type", "te", "user-agent", "host", "connection", "keep-alive",
        "proxy-connection", "transfer-encoding", "upgrade", "content-length",
    )
)  # fmt: skip
# Those that the calls' own code reads, so that the application need not see them.
_HIDDEN: Final = frozenset(
    (
        b"content-type", b"te", b"grpc-timeout", b"grpc-encoding", b"grpc-accept-encoding",
        b"grpc-message-type", b"grpc-status", b"grpc-message",
    )
)  # fmt: skip


def to_headers(metadata: Iterable[tuple[str, str | bytes]]) -> list[tuple[bytes, bytes]]:
    """Return the header fields for ``metadata``.

    Raises ValueError for a key or value that cannot be sent, and for reserved keys.
    """
    headers: list[tuple[bytes, bytes]] = []
    for key, value in metadata:
        if not _KEY.fullmatch(key):
            raise ValueError(f"metadata key {key!r} is not of 0-9 a-z _ . -")
        if key.startswith("grpc-") or key in _RESERVED:
            raise ValueError(f"metadata key {key!r} is reserved")
        name = key.encode("ascii")
        if key.endswith("-bin"):
            if not isinstance(value, bytes):
                raise ValueError(f"metadata value of {key!r} must be bytes")
            headers.append((name, b64encode(value).rstrip(b"=")))
            continue
        if not isinstance(value, str):
            raise ValueError(f"metadata value of {key!r} must be str")  # noqa: TRY004 - one error for all
        # HTTP strips blanks at the ends, so they would be lost silently.
        if not _TEXT.fullmatch(value) or value != value.strip(" "):
            raise ValueError(
                f"metadata value of {key!r} is not printable ASCII without outer blanks"
            )
        headers.append((name, value.encode("ascii")))
    return headers


def from_headers(headers: Iterable[tuple[bytes, bytes]]) -> Metadata:
    r"""Return the metadata among ``headers``, without pseudo headers and those of gRPC itself.

    A ``-bin`` field may hold several values, joined by commas. Bytes beyond ASCII in a text
    value become ``\xNN`` escapes. Raises ValueError if a ``-bin`` value is not base64.
    """
    metadata: list[tuple[str, str | bytes]] = []
    for name, value in headers:
        if name[:1] == b":" or name in _HIDDEN:
            continue
        key = name.decode("ascii", "backslashreplace")
        if name.endswith(b"-bin"):
            metadata.extend((key, _decode_binary(key, part)) for part in value.split(b","))
        else:
            metadata.append((key, value.decode("ascii", "backslashreplace")))
    return tuple(metadata)


def _decode_binary(key: str, part: bytes) -> bytes:
    text = part.strip(b" ").rstrip(b"=")
    try:
        return a2b_base64(text + b"=" * (-len(text) % 4), strict_mode=True)
    except Base64Error as error:
        raise ValueError(f"metadata value of {key!r} is not base64") from error
