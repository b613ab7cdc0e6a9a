"""The store as typed values: keys, transactions, watches and leases over any etcd v3 endpoint.

Everything here runs on the runtime's loop and is given a :class:`coord.transport.Transport`.
:class:`Caller` is the one way to make a unary call: it holds the deadline, decides with :class:`Repeat` what may be
sent again after a failure, and turns statuses into :mod:`coord.errors`.
An answer is always one of three things: done, certainly not done, or :class:`coord.AmbiguousResult`.

:class:`WatchMux` keeps any number of watches on one stream and brings them back after a lost connection, without a
missing or repeated event.
"""

from coord.store.caller import Caller, Repeat
from coord.store.keys import prefix_end, to_bytes

__all__ = ["Caller", "Repeat", "prefix_end", "to_bytes"]
