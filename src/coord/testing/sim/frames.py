"""The frames of the direct carrier: size, kind, number of the call, body."""

from __future__ import annotations

import struct
from enum import IntEnum, unique
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from coord.rpc.metadata import Metadata

_HEAD: Final = struct.Struct(">IBI")
_SIZE: Final = struct.Struct(">H")


@unique
class Kind(IntEnum):
    """What a frame is."""

    CALL = 1  # head and message of a unary call
    OPEN = 2  # head of a stream
    MESSAGE = 3
    END = 4  # the client sends no more
    CANCEL = 5
    ANSWER = 6  # a message and OK
    STATUS = 7  # a code and a text


_KINDS: Final = {kind.value: kind for kind in Kind}


class Frame(NamedTuple):
    """One frame."""

    kind: Kind
    call: int
    body: bytes


def pack(kind: Kind, call: int, body: bytes) -> bytes:
    """Return a frame as bytes."""
    return _HEAD.pack(len(body), kind, call) + body


class FrameReader:
    """Puts frames together again from any pieces."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[Frame]:
        """Return the frames that are whole now."""
        if self._rest:
            data = self._rest + data
        frames: list[Frame] = []
        start = 0
        while len(data) - start >= _HEAD.size:
            size, kind, call = _HEAD.unpack_from(data, start)
            end = start + _HEAD.size + size
            if end > len(data):
                break
            frames.append(Frame(_KINDS[kind], call, data[start + _HEAD.size : end]))
            start = end
        self._rest = data[start:]
        return frames


def pack_head(path: str, timeout_s: float, metadata: Metadata) -> bytes:
    """Return what goes before the message of a call: path, timeout (0 for none) and text metadata."""
    parts = [path, f"{timeout_s:.6f}"]
    for key, value in metadata:
        if isinstance(value, bytes):
            raise TypeError("the direct carrier takes text metadata only")
        parts += (key, value)
    head = "\0".join(parts).encode()
    return _SIZE.pack(len(head)) + head


def unpack_head(body: bytes) -> tuple[str, float | None, Metadata, bytes]:
    """Return path, timeout, metadata and the rest: the message."""
    size = _SIZE.unpack_from(body)[0]
    path, timeout, *rest = body[2 : 2 + size].decode().split("\0")
    metadata = tuple(zip(rest[::2], rest[1::2], strict=True))
    return path, float(timeout) or None, metadata, body[2 + size :]
