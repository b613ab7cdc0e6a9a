"""Frames of HTTP/2 as bytes (RFC 9113 sections 4 and 6): numbers, limits, packing.

Nothing here knows the state of a connection; the cores decide what may be sent, and check what
has arrived.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

# Frame types (RFC 9113 section 6). Plain integers, as the cores compare them for every frame.
DATA: Final = 0x0
HEADERS: Final = 0x1
PRIORITY: Final = 0x2
RST_STREAM: Final = 0x3
SETTINGS: Final = 0x4
PUSH_PROMISE: Final = 0x5
PING: Final = 0x6
GOAWAY: Final = 0x7
WINDOW_UPDATE: Final = 0x8
CONTINUATION: Final = 0x9

# Flags. END_STREAM and ACK share a bit, as they belong to different frame types.
FLAG_END_STREAM: Final = 0x1
FLAG_ACK: Final = 0x1
FLAG_END_HEADERS: Final = 0x4
FLAG_PADDED: Final = 0x8
FLAG_PRIORITY: Final = 0x20

FRAME_HEADER_BYTES: Final = 9
# What a peer may send before it has seen our SETTINGS, and the bounds of what settings may say.
DEFAULT_HEADER_TABLE_SIZE: Final = 4096
DEFAULT_WINDOW: Final = 65_535
DEFAULT_MAX_FRAME_SIZE: Final = 16_384
LARGEST_MAX_FRAME_SIZE: Final = (1 << 24) - 1
MAX_WINDOW: Final = (1 << 31) - 1
MAX_STREAM_ID: Final = (1 << 31) - 1


class ErrorCode(IntEnum):
    """Why a stream was reset or a connection ended (RFC 9113 section 7)."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    SETTINGS_TIMEOUT = 0x4
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    CONNECT_ERROR = 0xA
    ENHANCE_YOUR_CALM = 0xB
    INADEQUATE_SECURITY = 0xC
    HTTP_1_1_REQUIRED = 0xD


class Setting(IntEnum):
    """Identifiers in SETTINGS (RFC 9113 section 6.5.2); unknown ones are ignored when received."""

    HEADER_TABLE_SIZE = 0x1
    ENABLE_PUSH = 0x2
    MAX_CONCURRENT_STREAMS = 0x3
    INITIAL_WINDOW_SIZE = 0x4
    MAX_FRAME_SIZE = 0x5
    MAX_HEADER_LIST_SIZE = 0x6


_HEADER = struct.Struct(">IBI")
_SETTING = struct.Struct(">HI")
_pack_header = _HEADER.pack
_read_header = _HEADER.unpack_from
_pack_uint32 = struct.Struct(">I").pack
_pack_two = struct.Struct(">II").pack


def pack_frame(frame_type: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """Return a whole frame; the payload's length must fit the peer's SETTINGS_MAX_FRAME_SIZE."""
    return _pack_header(len(payload) << 8 | frame_type, flags, stream_id) + payload


def unpack_header(data: bytes, pos: int = 0) -> tuple[int, int, int, int]:
    """Return (payload length, type, flags, stream id) of the nine bytes at ``pos``.

    The reserved bit of the stream id is dropped, as receivers have to. Raises struct.error if
    fewer than nine bytes are there.
    """
    length_and_type, flags, stream_id = _read_header(data, pos)
    return length_and_type >> 8, length_and_type & 0xFF, flags, stream_id & MAX_STREAM_ID


def pack_settings(settings: Mapping[int, int]) -> bytes:
    """Return a SETTINGS frame with these values, in the mapping's order."""
    body = b"".join([_SETTING.pack(key, value) for key, value in settings.items()])
    return pack_frame(SETTINGS, 0, 0, body)


SETTINGS_ACK: Final = pack_frame(SETTINGS, FLAG_ACK, 0)


def unpack_settings(payload: bytes) -> list[tuple[int, int]]:
    """Return (identifier, value) pairs in order; a later pair overrides an earlier one.

    Raises ValueError if the length is not a multiple of six (FRAME_SIZE_ERROR).
    """
    if len(payload) % _SETTING.size:
        raise ValueError("SETTINGS payload is not a multiple of six bytes")
    return [(key, value) for key, value in _SETTING.iter_unpack(payload)]


def pack_window_update(stream_id: int, increment: int) -> bytes:
    """Return a WINDOW_UPDATE; ``increment`` is in bytes, 1 to 2**31 - 1; stream 0 means all."""
    return _pack_header(4 << 8 | WINDOW_UPDATE, 0, stream_id) + _pack_uint32(increment)


def pack_rst_stream(stream_id: int, code: int) -> bytes:
    """Return a RST_STREAM with an error code."""
    return _pack_header(4 << 8 | RST_STREAM, 0, stream_id) + _pack_uint32(code)


def pack_goaway(last_stream_id: int, code: int, debug: bytes = b"") -> bytes:
    """Return a GOAWAY; streams above ``last_stream_id`` were not and will not be processed."""
    return pack_frame(GOAWAY, 0, 0, _pack_two(last_stream_id, code) + debug)


def pack_ping(ack: bool, data8: bytes) -> bytes:  # noqa: FBT001 - a flag and eight bytes, as on the wire
    """Return a PING; ``data8`` is eight bytes, and an answer repeats those of the question."""
    return _pack_header(8 << 8 | PING, FLAG_ACK if ack else 0, 0) + data8


def split_data(
    stream_id: int, body: bytes, max_frame: int, *, end_stream: bool = False
) -> list[bytes]:
    """Return DATA frames that carry ``body``, each with at most ``max_frame`` bytes of it.

    With ``end_stream`` the last frame ends the stream; an empty body then is one empty frame,
    and otherwise no frame.
    """
    if not body:
        return [pack_frame(DATA, FLAG_END_STREAM, stream_id)] if end_stream else []
    frames = [
        pack_frame(DATA, 0, stream_id, body[start : start + max_frame])
        for start in range(0, len(body) - max_frame, max_frame)
    ]
    last = body[len(frames) * max_frame :]
    frames.append(pack_frame(DATA, FLAG_END_STREAM if end_stream else 0, stream_id, last))
    return frames


def split_headers(stream_id: int, block: bytes, max_frame: int, *, end_stream: bool) -> bytes:
    """Return a HEADERS frame and the CONTINUATION frames it needs, as one string."""
    first_flags = FLAG_END_STREAM if end_stream else 0
    if len(block) <= max_frame:
        return pack_frame(HEADERS, first_flags | FLAG_END_HEADERS, stream_id, block)
    parts = [pack_frame(HEADERS, first_flags, stream_id, block[:max_frame])]
    for start in range(max_frame, len(block), max_frame):
        flags = FLAG_END_HEADERS if start + max_frame >= len(block) else 0
        part = block[start : start + max_frame]
        parts.append(pack_frame(CONTINUATION, flags, stream_id, part))
    return b"".join(parts)
