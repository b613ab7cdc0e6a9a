"""Comparisons of a transaction (etcd API: Txn, ``Compare``).

    compare.create_revision("k") == 0
    compare.missing("jobs/", prefix=True)

A comparison over a range holds if it holds for every key in it; an empty range compares like a missing key, whose
revisions, version and lease are 0.
A comparison of the *value* of a missing key never holds, not even ``!=``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from typing_extensions import override

from coord.errors import InvalidArgument
from coord.store.keys import prefix_end, to_bytes, to_key
from coord.wire import fast, rpc_pb2

_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1
_TARGETS = {
    "version": rpc_pb2.Compare.VERSION,
    "create_revision": rpc_pb2.Compare.CREATE,
    "mod_revision": rpc_pb2.Compare.MOD,
    "value": rpc_pb2.Compare.VALUE,
    "lease": rpc_pb2.Compare.LEASE,
}


@dataclass(frozen=True, slots=True)
class Compare:
    """One finished comparison, for ``when()``; encoded at once, as :class:`coord.op.Op`."""

    body: bytes
    """The bytes of its message."""

    @property
    def wire(self) -> rpc_pb2.Compare:
        """A message of its own."""
        return rpc_pb2.Compare.FromString(self.body)

    def __bool__(self) -> bool:
        """Refuse: a comparison is evaluated by the server, so ``if`` or ``and`` on it is a mistake."""
        raise InvalidArgument("a comparison has no truth value here: pass it to when()")


class Operand:
    """The left side of a comparison; use ``==``, ``!=``, ``<``, ``<=``, ``>`` or ``>=`` on it.

    etcd knows the first three and ``>``; the others are said by means of those.
    """

    __slots__ = ("_end", "_field", "_key")

    def __init__(self, field: str, key: bytes, end: bytes = b"") -> None:
        self._field = field
        self._key = key
        self._end = end

    def _build(self, result: rpc_pb2.Compare.CompareResult.ValueType, given: object) -> Compare:
        operand: bytes | int
        if self._field == "value":
            operand = to_bytes(given, "compared value")  # type: ignore[arg-type] # refused at run time with a clear text
        elif isinstance(given, int):
            if not _INT64_MIN <= given <= _INT64_MAX:
                raise InvalidArgument(
                    f"{self._field} compares with a number of 64 bits, not {given}"
                )
            operand = given
        else:
            raise InvalidArgument(f"{self._field} compares with an int, not {type(given).__name__}")
        return Compare(
            fast.encode_compare(result, _TARGETS[self._field], self._key, operand, self._end)
        )

    @override
    def __eq__(self, given: object) -> Compare:  # type: ignore[override] # builds, like an expression language
        return self._build(rpc_pb2.Compare.EQUAL, given)

    @override
    def __ne__(self, given: object) -> Compare:  # type: ignore[override] # builds, like an expression language
        return self._build(rpc_pb2.Compare.NOT_EQUAL, given)

    def __lt__(self, given: object) -> Compare:
        return self._build(rpc_pb2.Compare.LESS, given)

    def __gt__(self, given: object) -> Compare:
        return self._build(rpc_pb2.Compare.GREATER, given)

    def __le__(self, given: object) -> Compare:
        if isinstance(given, int):
            return self._build(rpc_pb2.Compare.LESS, given + 1)
        # The next byte string behind a value is that value with a zero.
        behind = to_bytes(given, "compared value") + b"\0"  # type: ignore[arg-type] # as in _build
        return self._build(rpc_pb2.Compare.LESS, behind)

    def __ge__(self, given: object) -> Compare:
        if isinstance(given, int):
            return self._build(rpc_pb2.Compare.GREATER, given - 1)
        # No byte string comes right before a value, so etcd's comparisons cannot say this.
        raise InvalidArgument(
            "a value cannot be compared with >=: turn the branches round and use <"
        )

    __hash__: ClassVar[None] = None  # type: ignore[assignment] # two of them are never equal in Python's sense


def _operand(field: str, key: str | bytes, end: str | bytes | None, *, prefix: bool) -> Operand:
    start = to_key(key)
    if prefix and end is not None:
        raise InvalidArgument("give either end or prefix, not both")
    if prefix:
        return Operand(field, start, prefix_end(start))
    return Operand(field, start, b"" if end is None else to_bytes(end, "end"))


def version(key: str | bytes, *, end: str | bytes | None = None, prefix: bool = False) -> Operand:
    """Compare the number of puts since creation; 0 for a missing key."""
    return _operand("version", key, end, prefix=prefix)


def create_revision(
    key: str | bytes, *, end: str | bytes | None = None, prefix: bool = False
) -> Operand:
    """Compare the revision that created the key; 0 for a missing key."""
    return _operand("create_revision", key, end, prefix=prefix)


def mod_revision(
    key: str | bytes, *, end: str | bytes | None = None, prefix: bool = False
) -> Operand:
    """Compare the revision of the last put; 0 for a missing key."""
    return _operand("mod_revision", key, end, prefix=prefix)


def value(key: str | bytes, *, end: str | bytes | None = None, prefix: bool = False) -> Operand:
    """Compare the value's bytes; never holds for a missing key."""
    return _operand("value", key, end, prefix=prefix)


def lease(key: str | bytes, *, end: str | bytes | None = None, prefix: bool = False) -> Operand:
    """Compare the lease that the key is attached to; 0 for none and for a missing key."""
    return _operand("lease", key, end, prefix=prefix)


def exists(key: str | bytes, *, end: str | bytes | None = None, prefix: bool = False) -> Compare:
    """Hold if the key exists, or any key of the range does."""
    return version(key, end=end, prefix=prefix) > 0


def missing(key: str | bytes, *, end: str | bytes | None = None, prefix: bool = False) -> Compare:
    """Hold if the key does not exist, or no key of the range does."""
    return version(key, end=end, prefix=prefix) == 0
