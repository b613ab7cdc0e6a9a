"""The responses of one watcher, and their fragments if it wants them (etcd API: Watch, ``fragment``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

from coord.runtime import invariant
from coord.wire.fast import read_varint

if TYPE_CHECKING:
    from collections.abc import Sequence

Frame: TypeAlias = tuple[int, bytes, bytes]
"""A response without the watch id: its revision, its header, its events."""

_EVENT_TAG: Final = 0x5A


def responses(id_field: bytes, limit: int, frames: Sequence[Frame]) -> list[bytes]:
    """Return a watcher's responses, one for each frame, or more if a ``limit`` is given and reached."""
    messages = [header + id_field + fields for _, header, fields in frames]
    if limit and any(len(message) >= limit for message in messages):
        return [
            part
            for _, header, fields in frames
            for part in split_response(header + id_field, fields, limit)
        ]
    return messages


def split_response(head: bytes, fields: bytes, limit: int) -> list[bytes]:
    """Split a response into fragments below ``limit`` bytes, each with at least one event.

    ``head`` stands before the events in every part; all but the last are marked as fragments. A
    response below the limit, or of one event, stays whole.
    """
    if len(head) + len(fields) < limit:
        return [head + fields]
    mark = b"\x38\x01"
    room = limit - len(head) - len(mark)
    parts: list[bytes] = []
    begin = place = 0
    while place < len(fields):
        invariant(fields[place] == _EVENT_TAG, "only events stand after the head")
        size, body = read_varint(fields, place + 1)
        after = body + size
        if after - begin >= room and place > begin:
            parts.append(fields[begin:place])
            begin = place
        place = after
    last = fields[begin:]
    return [head + mark + part for part in parts] + [head + last]
