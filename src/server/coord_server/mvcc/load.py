"""Rebuilding the index from the records of the backend."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coord.wire import fast
from coord_server.mvcc.fields import key_of, make_field
from coord_server.mvcc.index import History
from coord_server.mvcc.revision import decode_revision
from coord_server.storage.backend import Bucket

if TYPE_CHECKING:
    from coord_server.mvcc.index import Index
    from coord_server.mvcc.records import Records
    from coord_server.mvcc.store import Attachments
    from coord_server.storage.backend import Backend


def load_histories(
    backend: Backend, index: Index, records: Records, attachments: Attachments
) -> int:
    """Fill an empty index from all records, in order of revision; return the newest revision, or 0.

    Only the newest record of a key says on which lease it hangs: older ones name leases that it has
    left. Values are cached as long as there is room.
    """
    histories: dict[bytes, History] = {}
    newest = 0
    # Bodies wait on their histories until it is known which keys are alive, up to the cache's size.
    room = records.cache_bytes
    for record_key, body in backend.scan(Bucket.KEY):
        main, sub, tombstone = decode_revision(record_key)
        newest = main
        if tombstone:
            key = key_of(body)
            history = histories.get(key)
            if history is None:
                # The puts before it were compacted away; the delete itself was at that revision.
                history = histories[key] = History(key, main, sub)
            else:
                history.supersede(main, sub)
            room += len(history.field or b"")
            history.version = history.lease = 0
            history.field = None
            continue
        key, create, _mod, version, _value, lease = fast.decode_key_value(body)
        history = histories.get(key)
        if history is None:
            history = histories[key] = History(key, main, sub)
        else:
            history.supersede(main, sub)
        history.create = create
        history.version = version
        history.lease = lease
        if history.field is not None:
            room += len(history.field)
        history.field = body if len(body) <= room else None
        room -= len(history.field or b"")
    index.load(histories)
    for key in index.live:
        history = histories[key]
        held, history.field = history.field, None
        if held is not None:
            records.cache(history, make_field(held))
        if history.lease:
            attachments.attach(history.lease, key)
    return newest
