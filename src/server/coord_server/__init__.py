"""An etcd v3 compatible store, as a program (``coord-server``) and as a library.

The problem: keep a small map of keys that many processes agree on, survive a crash at any instant,
and tell watchers what changed, in order, without a gap.

Vocabulary is the field's own.
A *revision* numbers the changes of the whole store; a *lease* lives as long as its owner renews it and
takes its keys with it; a *watch* is an ordered stream of changes from a revision on; an *entry* is one
record of the replicated log and holds every operation that waited for it.

The rooms, from the bottom up; arrows point only downwards:

- ``raft``, ``mvcc``, ``lease``: rules. Values in, values out; no clock, no socket, no file, no random draw.
- ``storage``, ``apply``: the write-ahead log and the backend; what a committed entry does to the state.
- ``replica``: the loop that carries effects out of ``raft`` into storage, peers and ``apply``.
- ``api``, ``http``: the etcd services and the plain HTTP endpoints on the same port.

Invariants that hold everywhere: an answer leaves only after its entry is durable; revisions never go
back; apply is a function of state and entry alone and cannot fail half-way.

Of the SDK this package sees ``coord.rpc``, ``coord.runtime`` and ``coord.wire`` only.

PYTEST_DONT_REWRITE: see ``coord``.
"""

from coord._version import __version__

__all__ = ["__version__"]
