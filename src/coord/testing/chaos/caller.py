"""Which member has dialled a connection: its hello says so, in the metadata of the first call.

Members have one address each, so the proxy in front of one cannot tell by the port who calls. Only the
beginning of a connection is read, and nothing of it is changed.
"""

from __future__ import annotations

import base64
import binascii
import struct

from coord.rpc.frames import (
    FLAG_END_HEADERS,
    FLAG_PADDED,
    FLAG_PRIORITY,
    FRAME_HEADER_BYTES,
    HEADERS,
    PREFACE,
    unpack_header,
)
from coord.rpc.hpack import Decoder, HpackError

# The hello is in the first frames. A connection that begins otherwise is nobody's we know.
_LOOK_AT_BYTES = 64 * 1024


class CallerReader:
    """Reads along until it knows. ``urls`` is empty for one that is no member."""

    def __init__(self) -> None:
        self._seen = b""
        self.is_done: bool = False
        self.urls: tuple[str, ...] = ()

    def feed(self, data: bytes) -> None:
        """Take what the caller has sent next."""
        self._seen += data
        try:
            self._look()
        except (HpackError, struct.error, ValueError, IndexError):
            self.is_done = True
        if len(self._seen) > _LOOK_AT_BYTES:
            self.is_done = True
        if self.is_done:
            self._seen = b""

    def _look(self) -> None:
        seen = self._seen
        if not seen.startswith(PREFACE[: len(seen)]):
            self.is_done = True
            return
        place = len(PREFACE)
        while len(seen) >= place + FRAME_HEADER_BYTES:
            length, kind, flags, _ = unpack_header(seen, place)
            end = place + FRAME_HEADER_BYTES + length
            if len(seen) < end:
                return
            if kind == HEADERS:
                self.is_done = True
                plain = not flags & (FLAG_PADDED | FLAG_PRIORITY) and flags & FLAG_END_HEADERS
                if plain:
                    self._read(seen[place + FRAME_HEADER_BYTES : end])
                return
            place = end

    def _read(self, block: bytes) -> None:
        from coord_server.peer.codec import DecodeError
        from coord_server.peer.handshake import HELLO_KEY, decode_hello

        for name, value in Decoder().decode(block):
            if name == HELLO_KEY.encode():
                text = value + b"=" * (-len(value) % 4)
                try:
                    self.urls = decode_hello(base64.b64decode(text)).urls
                except (DecodeError, binascii.Error):
                    return
