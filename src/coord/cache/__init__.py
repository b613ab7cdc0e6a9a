"""A local copy of a range that follows the store: read it like a dictionary, from any thread, without waiting.

The vocabulary, from the store upwards:

* A *mirror* copies one range: it reads all of it at one revision, in pages, and watches it from the next. There is one
  for each range of a client, whatever the number of caches on it.
* A *ledger* is where a mirror publishes: the present *snapshot*, and the last changes. Whoever fell behind by more
  than those gets the difference of two snapshots instead.
* A *snapshot* is the range as of one revision. Nothing in it ever changes; taking one costs nothing.
* A *cache* is what applications hold: it reads the ledger of its mirror, or, with a codec, one of its own, which a
  task fills with decoded values.

What always holds:

* A snapshot is what the store holds at its ``revision``, and at every revision up to its ``as_of``.
  All changes of one revision appear together.
* Revisions never go back.
* A cache is complete before ``async with`` lets anybody read it; a lost connection makes it older, not emptier.
* Publishing is one assignment on the runtime's loop, so readers in other threads need no lock.

Left out: values written through the cache (write to the store, and wait with ``wait_revision``), and eviction (a copy
with holes could not say that a key does not exist; a range that is too large is an error).
"""

from coord.cache.changes import Changes
from coord.cache.index import CacheIndex
from coord.cache.ledger import CacheBatch, CacheChange
from coord.cache.mirror import Mirrors
from coord.cache.snapshot import CacheSnapshot, Reads
from coord.cache.view import Cache, NodeCache

__all__ = [
    "Cache",
    "CacheBatch",
    "CacheChange",
    "CacheIndex",
    "CacheSnapshot",
    "Changes",
    "Mirrors",
    "NodeCache",
    "Reads",
]
