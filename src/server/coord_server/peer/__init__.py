"""Peers: how the members of a cluster talk.

The problem. Raft sends messages and forgets them; they may be lost. But a lost leader must be noticed at
once, a slow member must not fill the memory of the others, and nothing that comes from a foreign cluster,
a removed member or an earlier life of a member may have any effect. The protocol is our own, over gRPC
streams of ``coord.rpc``; nothing of it is etcd's.

Vocabulary. *Mesh*: all connections of one member. *Link*: the outgoing stream to one peer, dialled again
and again; a pair of members has two, one in each direction, and a message goes out on the sender's own.
*Hello*: who speaks to whom; it opens each stream and goes with each call. *Echo*: the answer to the
receiver's hello; only then does a stream count, since a hello may outlive who said it (decision 20).
*Incarnation*: a number drawn at each start of a process. *Packet*: the messages of one turn of the loop to one peer. *Question*: a unary
call between members, by name. *Offer*: a snapshot that waits at the leader to be fetched. *Guest*: a
member of this cluster that speaks to us before our log says that it exists.

Invariants.

1. A message is delivered at most once and in order with others of its stream, and only if its stream's
   hello fits: this cluster, this member, a sender that is known and not removed, its newest incarnation.
   Its own sender and receiver must be those of the stream.
2. What waits for a peer is bounded; beyond it messages are dropped and the peer is told of as unreachable.
3. A stream that ends is told of once: as *reset* if the other end is gone (a killed process: within
   milliseconds), else as silent, after ``silence_s``.
4. Any bytes are decoded to messages or to ``DecodeError``, which ends the stream that brought them.
5. A snapshot is handed over only whole, verified and on disk. It travels on a connection of its own, is
   resumed where it broke off, and ends in success or failure within bounded time.

Left out: what messages mean, when to send them, who is a member, and retries: raft has its own. Whoever
forwards operations keeps them until the log or a refusal tells what became of them.
"""

from coord_server.peer.calls import ask_url
from coord_server.peer.codec import (
    DecodeError,
    decode_message,
    decode_snapshot_meta,
    encode_message,
    encode_snapshot_meta,
)
from coord_server.peer.handshake import Hello, draw_incarnation
from coord_server.peer.limits import MeshLimits, server_limits
from coord_server.peer.local import PeerCounters
from coord_server.peer.mesh import Mesh, MeshHandler, Standing
from coord_server.peer.snapshot_source import (
    Snapshot,
    SnapshotFailed,
    SnapshotSource,
    applied_position,
)

__all__ = [
    "DecodeError",
    "Hello",
    "Mesh",
    "MeshHandler",
    "MeshLimits",
    "PeerCounters",
    "Snapshot",
    "SnapshotFailed",
    "SnapshotSource",
    "Standing",
    "applied_position",
    "ask_url",
    "decode_message",
    "decode_snapshot_meta",
    "draw_incarnation",
    "encode_message",
    "encode_snapshot_meta",
    "server_limits",
]
