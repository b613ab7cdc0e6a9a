"""Who is at the other end: the hello that opens every stream and goes with every call.

It stands for every message behind it, since a stream belongs to one connection of one process. What has
been sent by a foreign cluster, by another member than was meant, by a removed one or by an earlier life
of a member is refused with it, before anything of it is looked at.
"""

from __future__ import annotations

import struct
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from coord.rpc.status import RpcError, StatusCode
from coord_server.peer.codec import DecodeError

if TYPE_CHECKING:
    from coord.rpc.service import RequestHead
    from coord.runtime import Rand
    from coord_server.raft.types import NodeId

VERSION: Final = 1
# The name of the hello in a call's metadata.
HELLO_KEY: Final = "coord-peer-bin"

_MAGIC: Final = b"coordpeer"
_OPENING: Final = struct.Struct(f">{len(_MAGIC)}sB")
_IDS: Final = struct.Struct(">QQQQ")
_ECHO: Final = struct.Struct(">Q")
# What of the sender's URLs fits into a header beside the rest.
_MAX_URLS_BYTES: Final = 4096
# Earlier lives of one member that are remembered. A packet of an older one would have to be on its way
# through more restarts than that.
_REMEMBERED: Final = 64


REMOVED: Final = "member {node:x} was removed from the cluster"
"""Why one is refused that is a member no longer; it takes that as final."""


class Refused(Exception):
    """The other end is not who it should be, or thinks that of us; one sentence says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """Says who speaks to whom. ``incarnation`` is drawn anew whenever the sender's process starts.

    ``urls`` are where the sender is reached, for a receiver that does not know it yet.
    """

    cluster_id: int
    sender: NodeId
    to: NodeId
    incarnation: int
    urls: tuple[str, ...] = ()


def draw_incarnation(rand: Rand) -> int:
    """Return the number of a new life, never 0."""
    return rand.bits(64) or 1


def encode_hello(hello: Hello) -> bytes:
    """Return a hello's bytes; URLs that do not fit are left out."""
    urls = b""
    for url in hello.urls:
        longer = urls + b"\n" * bool(urls) + url.encode()
        if len(longer) > _MAX_URLS_BYTES:
            break
        urls = longer
    ids = _IDS.pack(hello.cluster_id, hello.sender, hello.to, hello.incarnation)
    return _OPENING.pack(_MAGIC, VERSION) + ids + urls


def decode_hello(data: bytes) -> Hello:
    """Return what `encode_hello` was given. Raises DecodeError, also for another version of the protocol."""
    if len(data) < _OPENING.size:
        raise DecodeError("the hello is cut off")
    magic, version = _OPENING.unpack_from(data)
    if magic != _MAGIC:
        raise DecodeError("the caller is no member of a coord-server cluster")
    if version != VERSION:
        raise DecodeError(
            f"the peer speaks version {version} of the protocol, this member {VERSION}"
        )
    if len(data) < _OPENING.size + _IDS.size:
        raise DecodeError("the hello is cut off")
    cluster_id, sender, to, incarnation = _IDS.unpack_from(data, _OPENING.size)
    text = data[_OPENING.size + _IDS.size :]
    if len(text) > _MAX_URLS_BYTES:
        raise DecodeError("the hello is too long")
    try:
        urls = tuple(text.decode().split("\n")) if text else ()
    except UnicodeDecodeError as error:
        raise DecodeError("the URLs of the hello are no text") from error
    return Hello(cluster_id=cluster_id, sender=sender, to=to, incarnation=incarnation, urls=urls)


def encode_echo(incarnation: int) -> bytes:
    """Return what opens a stream for good: the life of the receiver, as its hello has told it."""
    return _ECHO.pack(incarnation)


def hello_of(head: RequestHead) -> Hello:
    """Return the hello of a call. Raises RpcError for a call without a sound one."""
    data = head.first(HELLO_KEY)
    if not isinstance(data, bytes):
        raise RpcError(StatusCode.UNAUTHENTICATED, "the call does not say which member makes it")
    try:
        return decode_hello(data)
    except DecodeError as error:
        raise RpcError(StatusCode.FAILED_PRECONDITION, str(error)) from error


class Lives:
    """The lives of the other members: the present one of each, and the last ones that are over."""

    def __init__(self) -> None:
        self._present: dict[NodeId, int] = {}
        # When the present one was certainly there, as the number of a hello of its.
        self._there_at: dict[NodeId, int] = {}
        self._past: dict[NodeId, deque[int]] = {}

    def present(self, node: NodeId) -> int | None:
        """Return the newest known life of a member."""
        return self._present.get(node)

    def check(self, node: NodeId, incarnation: int) -> None:
        """Raise Refused for a life that is over."""
        if incarnation in self._past.get(node, ()):
            raise Refused(
                f"member {node:x} has been started again since; incarnation {incarnation:x} is over"
            )

    def begin(self, node: NodeId, incarnation: int, number: int) -> None:
        """Note who speaks for a member now. Raises Refused for a life that is over.

        ``number`` counts the hellos that came. It has said this one before that moment and has answered ours
        since, so it lived then: of two lives the one that lived later is the newer.
        """
        self.check(node, incarnation)
        present = self._present.get(node)
        if present is not None and present != incarnation:
            over = present if number > self._there_at[node] else incarnation
            self._past.setdefault(node, deque(maxlen=_REMEMBERED)).append(over)
            self.check(node, incarnation)
        self._there_at[node] = max(number, self._there_at.get(node, 0))
        self._present[node] = incarnation

    def forget(self, node: NodeId) -> None:
        """Drop what is known about a member that is no peer any more."""
        self._present.pop(node, None)
        self._there_at.pop(node, None)
        self._past.pop(node, None)


def check_cluster(hello: Hello, own: Hello) -> None:
    """Raise Refused unless ``hello`` is from our cluster and for us. ``own`` is our own, to anybody."""
    if hello.cluster_id != own.cluster_id:
        raise Refused(
            f"member {hello.sender:x} is of cluster {hello.cluster_id:x}, "
            f"member {own.sender:x} of cluster {own.cluster_id:x}"
        )
    if hello.to != own.sender:
        raise Refused(f"this is member {own.sender:x}, not member {hello.to:x}")
    if hello.sender == own.sender:
        raise Refused(f"member {own.sender:x} was called by itself")
