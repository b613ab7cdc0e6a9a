"""What commands print: etcdctl's two formats, simple and JSON.

JSON follows Go's encoding of the response structures: names as in the ``.proto`` files, in their order, numbers as
numbers, bytes in base64, fields that are zero left out.
"""

from __future__ import annotations

import base64
import json
import sys
from typing import TYPE_CHECKING, cast

from google.protobuf.message import Message

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from coord.wire import kv_pb2, rpc_pb2

# Go escapes these so that its JSON may stand in a web page.
_ESCAPES = {
    "<": "\\u003c",
    ">": "\\u003e",
    "&": "\\u0026",
    "\u2028": "\\u2028",
    "\u2029": "\\u2029",
}


def plain(message: Message) -> dict[str, object]:
    """Return a message as Go would encode it."""
    shown: dict[str, object] = {}
    for field in message.DESCRIPTOR.fields:
        name = field.name
        value: object = getattr(message, name)
        if isinstance(value, Message):
            if message.HasField(name):
                shown[name] = plain(value)
        elif isinstance(value, str | bytes | int):
            if value:
                shown[name] = encoded(value) if isinstance(value, bytes) else value
        elif items := list(cast("Iterable[object]", value)):
            shown[name] = [_item(item) for item in items]
    return shown


def _item(value: object) -> object:
    if isinstance(value, Message):
        return plain(value)
    return encoded(value) if isinstance(value, bytes) else value


def header_of(response: Message) -> dict[str, object]:
    """Return the header of a response as Go would encode it."""
    header = getattr(response, "header", None)
    return plain(header) if isinstance(header, Message) else {}


def encoded(data: bytes) -> str:
    """Return bytes in base64."""
    return base64.b64encode(data).decode()


class Printer:
    """Writes results to stdout, at once."""

    def __init__(self, *, as_json: bool, as_hex: bool) -> None:
        self.as_json = as_json
        self.as_hex = as_hex

    def line(self, text: str | bytes = b"") -> None:
        """Print a line. Bytes are printed as they are."""
        raw = text.encode(errors="surrogateescape") if isinstance(text, str) else text
        sys.stdout.buffer.write(raw + b"\n")
        sys.stdout.buffer.flush()

    def data(self, raw: bytes) -> None:
        """Print a key or a value on a line of its own."""
        self.line("".join(f"\\x{byte:02x}" for byte in raw) if self.as_hex else raw)

    def pair(self, kv: kv_pb2.KeyValue) -> None:
        """Print a key and its value."""
        self.data(kv.key)
        self.data(kv.value)

    def json(self, value: Mapping[str, object] | Sequence[object] | Message) -> None:
        """Print a line of JSON."""
        shown = plain(value) if isinstance(value, Message) else value
        text = json.dumps(shown, separators=(",", ":"), ensure_ascii=False)
        self.line("".join(_ESCAPES.get(character, character) for character in text))

    # Responses that more than one command prints.

    def put(self, response: rpc_pb2.PutResponse) -> None:
        """Print the answer to a put, in the simple format."""
        self.line("OK")
        if response.HasField("prev_kv"):
            self.pair(response.prev_kv)

    def get(
        self, response: rpc_pb2.RangeResponse, *, keys: bool = True, values: bool = True
    ) -> None:
        """Print the answer to a read, in the simple format."""
        for kv in response.kvs:
            if keys:
                self.data(kv.key)
            if values:
                self.data(kv.value)

    def delete(self, response: rpc_pb2.DeleteRangeResponse) -> None:
        """Print the answer to a delete, in the simple format."""
        self.line(str(response.deleted))
        self.pairs(response.prev_kvs)

    def pairs(self, pairs: Iterable[kv_pb2.KeyValue]) -> None:
        """Print several pairs."""
        for kv in pairs:
            self.pair(kv)
