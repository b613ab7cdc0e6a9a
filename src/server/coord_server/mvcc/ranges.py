"""Range: which pairs, in which order, how many of them, and how they are written.

The answer is put together from records as they lie in memory; nothing is decoded unless a value
decides the order, and nothing is encoded unless the values are to be left out.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final, TypeAlias

from coord.wire import fast, rpc_pb2
from coord_server.mvcc.fields import decode_field, encode_field
from coord_server.mvcc.index import History

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from coord_server.mvcc.index import Index
    from coord_server.mvcc.records import Records

    Place: TypeAlias = History | tuple[int, int]
    """A key as of now, or the revision of a record of the past."""

_RangeRequest = rpc_pb2.RangeRequest
_NONE: Final = int(_RangeRequest.NONE)
_DESCEND: Final = int(_RangeRequest.DESCEND)
_BY_KEY: Final = int(_RangeRequest.KEY)
_BY_VERSION: Final = int(_RangeRequest.VERSION)
_BY_CREATE: Final = int(_RangeRequest.CREATE)
_BY_MOD: Final = int(_RangeRequest.MOD)

# One more than a limit is collected, and the sum must stay a size that slices take.
_MOST: Final = 1 << 62

_MORE: Final = b"\x18\x01"
_COUNT_TAG: Final = b"\x20"


def point_body(index: Index, records: Records, key: bytes) -> bytes:
    """Return a RangeResponse without header for one key as of now."""
    history = index.histories.get(key)
    if history is None or not history.version:
        return b""
    field = history.field
    if field is None:
        field = records.newest(history)
    return field + b"\x20\x01"


def range_body(index: Index, records: Records, request: rpc_pb2.RangeRequest, at: int) -> bytes:
    """Return a RangeResponse without header, as of revision ``at``, which is readable; 0 is now."""
    key, end = request.key, request.range_end
    limit = min(max(request.limit, 0), _MOST)
    filtered = bool(
        request.min_mod_revision
        or request.max_mod_revision
        or request.min_create_revision
        or request.max_create_revision
    )
    # Only an unsorted and unfiltered range is cut while it is collected. An order on another target
    # than the key is then an order of what was collected: clients can tell (etcd API: Range).
    pushed = limit if request.sort_order == _NONE and not filtered else 0
    if at:
        places = _places_at(index, key, end, at)
        count = len(places)
        if request.count_only:
            return _count_field(count)
        rows = _rows_of(records, places[: pushed + 1] if pushed else places)
    else:
        if not end and not filtered and not (request.keys_only or request.count_only):
            return point_body(index, records, key)
        count = index.count(key, end)
        if request.count_only:
            return _count_field(count)
        rows = _rows_now(index, key, end, pushed)
    if filtered:
        rows = _filter(rows, request)
    _sort(rows, records, request)
    more = b""
    if 0 < limit < len(rows):
        more = _MORE
        del rows[limit:]
    fields = (
        [encode_field(row.key, row.create, row.mod, row.version, b"", row.lease) for row in rows]
        if request.keys_only
        else fields_of(records, rows)
    )
    return b"".join(fields) + more + _count_field(count)


def fields_of(records: Records, rows: list[History]) -> list[bytes]:
    """Return the records of live keys."""
    return [row.field or records.peek(row) for row in rows]


def _count_field(count: int) -> bytes:
    return _COUNT_TAG + fast.varint(count) if count else b""


def _rows_now(index: Index, key: bytes, end: bytes, limit: int) -> list[History]:
    """Return the live keys of the range; with a limit, one more than that at most."""
    histories = index.histories
    if not end:
        history = histories.get(key)
        return [history] if history is not None and history.version else []
    span: Iterable[bytes] = index.span(key, end)
    if limit:
        span = islice(span, limit + 1)
    return [histories[name] for name in span]


def _places_at(index: Index, key: bytes, end: bytes, at: int) -> list[Place]:
    """Return what was alive in the range at a revision, in order of keys."""
    histories = index.histories
    places: list[Place] = []
    for name in index.keys_with_past(key, end):
        history = histories[name]
        if history.mod <= at:
            if history.version:
                places.append(history)
        else:
            place = history.at(at)
            if place is not None:
                places.append(place)
    return places


def _rows_of(records: Records, places: list[Place]) -> list[History]:
    """Read the records of the past, so that each has the shape of a key as of then."""
    rows: list[History] = []
    for place in places:
        if isinstance(place, History):
            rows.append(place)
            continue
        field = records.fetch(*place)
        pair = decode_field(field)
        row = History(pair.key, pair.mod_revision, place[1])
        row.create, row.version, row.lease = pair.create_revision, pair.version, pair.lease
        row.field = field
        rows.append(row)
    return rows


def _filter(rows: list[History], request: rpc_pb2.RangeRequest) -> list[History]:
    min_mod, max_mod = request.min_mod_revision, request.max_mod_revision
    min_create, max_create = request.min_create_revision, request.max_create_revision
    return [
        row
        for row in rows
        if (not min_mod or row.mod >= min_mod)
        and (not max_mod or row.mod <= max_mod)
        and (not min_create or row.create >= min_create)
        and (not max_create or row.create <= max_create)
    ]


def _by_version(row: History) -> int:
    return row.version


def _by_create(row: History) -> int:
    return row.create


def _by_mod(row: History) -> int:
    return row.mod


_NUMBER_OF: Final[dict[int, Callable[[History], int]]] = {
    _BY_VERSION: _by_version,
    _BY_CREATE: _by_create,
    _BY_MOD: _by_mod,
}


def _sort(rows: list[History], records: Records, request: rpc_pb2.RangeRequest) -> None:
    """Order the rows, which come in ascending order of keys."""
    target = request.sort_target
    descending = request.sort_order == _DESCEND
    if target == _BY_KEY:
        if descending:
            rows.reverse()
        return
    number_of = _NUMBER_OF.get(target)
    if number_of is not None:
        rows.sort(key=number_of, reverse=descending)
    else:
        rows.sort(key=lambda row: decode_field(records.peek(row)).value, reverse=descending)
