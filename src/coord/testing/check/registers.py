"""The store as a set of registers, for the linearizability search: what an operation does to some keys.

This is written apart from the sequential model, as a second opinion: it has no revisions of its own. A key holds what
was put, when it was created and changed (as far as answers tell), its version and its lease.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from coord.testing.model import in_range
from coord.wire import rpc_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from coord.wire import kv_pb2


class Cell(NamedTuple):
    """What a key holds. A revision that nobody was told is negative: it equals any that was told."""

    value: bytes
    create: int
    mod: int
    version: int
    lease: int


State = tuple[Cell | None, ...]


def is_plain(request: rpc_pb2.RangeRequest) -> bool:
    """Tell whether a read is of the present, and of everything in its range."""
    return not (
        request.revision > 0
        or request.limit
        or request.sort_order
        or request.min_mod_revision
        or request.max_mod_revision
        or request.min_create_revision
        or request.max_create_revision
    )


class Registers:
    """Requests on the cells of some keys.

    ``is_view``: the requests use other keys, too, of which nothing is known.
    """

    def __init__(self, keys: tuple[bytes, ...], *, is_view: bool) -> None:
        self._keys = keys
        self._is_view = is_view
        self._places = {key: place for place, key in enumerate(keys)}

    def _within(self, start: bytes, end: bytes) -> list[int]:
        if not end:
            place = self._places.get(start)
            return [] if place is None else [place]
        return [n for n, key in enumerate(self._keys) if in_range(key, start, end)]

    def run(self, state: State, request: Any, response: Any, revision: int) -> list[State]:  # noqa: ANN401
        """Return the states after a request; none if its answer is wrong here. No answer fits everywhere."""
        match request:
            case rpc_pb2.RangeRequest():
                return [state] if self._is_read(state, request, response) else []
            case rpc_pb2.PutRequest():
                return self._put(state, request, response, revision)
            case rpc_pb2.DeleteRangeRequest():
                return self._delete(state, request, response)
            case rpc_pb2.TxnRequest():
                return self._branches(state, state, request, response, revision)
            case rpc_pb2.LeaseRevokeRequest():
                return [self.revoke(state, request.ID)]
            case _:
                return []

    def revoke(self, state: State, lease: int) -> State:
        """Return the state without the keys of a lease."""
        return tuple(None if cell is not None and cell.lease == lease else cell for cell in state)

    def _is_read(self, state: State, request: rpc_pb2.RangeRequest, response: Any) -> bool:  # noqa: ANN401
        if response is None or not is_plain(request):
            return True
        within = self._within(request.key, request.range_end)
        present = [n for n in within if state[n] is not None]
        if not self._is_partial(request) and response.count != len(present):
            return False
        if request.count_only:
            return True
        shown = {pair.key: pair for pair in response.kvs}
        return all(
            _shows(shown.get(self._keys[n]), state[n], keys_only=request.keys_only) for n in within
        )

    def _is_partial(self, request: rpc_pb2.RangeRequest | rpc_pb2.DeleteRangeRequest) -> bool:
        """Tell whether a request uses keys that are not here."""
        return self._is_view and (bool(request.range_end) or request.key not in self._places)

    def _put(
        self,
        state: State,
        request: rpc_pb2.PutRequest,
        response: Any,  # noqa: ANN401 - of any kind, or None
        revision: int,
    ) -> list[State]:
        place = self._places.get(request.key)
        if place is None:
            return [state]
        old = state[place]
        if (request.ignore_value or request.ignore_lease) and old is None:
            return []
        if response is not None and request.prev_kv:
            previous = response.prev_kv if response.HasField("prev_kv") else None
            if not _shows(previous, old, keys_only=False):
                return []
        value, lease = request.value, request.lease
        if old is not None:
            value = old.value if request.ignore_value else value
            lease = old.lease if request.ignore_lease else lease
        new = Cell(
            value,
            revision if old is None else old.create,
            revision,
            1 if old is None else old.version + 1,
            lease,
        )
        return [(*state[:place], new, *state[place + 1 :])]

    def _delete(
        self,
        state: State,
        request: rpc_pb2.DeleteRangeRequest,
        response: Any,  # noqa: ANN401 - of any kind, or None
    ) -> list[State]:
        within = self._within(request.key, request.range_end)
        gone = [n for n in within if state[n] is not None]
        if response is not None:
            # Of several keys only some may be here: those count, and the others may.
            counted = len(gone) if not self._is_partial(request) else response.deleted
            if response.deleted != counted or len(gone) > response.deleted:
                return []
            shown = {pair.key: pair for pair in response.prev_kvs}
            if request.prev_kv and not all(
                _shows(shown.get(self._keys[n]), state[n], keys_only=False) for n in within
            ):
                return []
        cells = list(state)
        for place in gone:
            cells[place] = None
        return [tuple(cells)]

    def _branches(
        self,
        before: State,
        state: State,
        request: rpc_pb2.TxnRequest,
        response: Any,  # noqa: ANN401 - of any kind, or None
        revision: int,
    ) -> list[State]:
        """Run a transaction on ``state``; compares see the state ``before`` the outermost one."""
        holds = [self._holds(before, compare) for compare in request.compare]
        known = False if False in holds else None if None in holds else True
        found: list[State] = []
        for succeeded, ops in ((True, request.success), (False, request.failure)):
            if known is not None and succeeded != known:
                continue
            if response is not None and response.succeeded != succeeded:
                continue
            answers: Sequence[Any] = [None] * len(ops) if response is None else response.responses
            if len(answers) != len(ops):
                continue
            found += self._run_all(before, state, ops, answers, revision)
        return found

    def _run_all(
        self,
        before: State,
        state: State,
        ops: Sequence[rpc_pb2.RequestOp],
        answers: Sequence[Any],
        revision: int,
    ) -> list[State]:
        states: list[State] = [state]
        for op, answer in zip(ops, answers, strict=True):
            field = op.WhichOneof("request")
            if field is None:
                return []
            request = getattr(op, field)
            reply = None if answer is None else _part(answer, field)
            following: list[State] = []
            for each in states:
                if isinstance(request, rpc_pb2.TxnRequest):
                    following += self._branches(before, each, request, reply, revision)
                else:
                    following += self.run(each, request, reply, revision)
            states = following
        return states

    def _holds(self, state: State, compare: rpc_pb2.Compare) -> bool | None:
        """Tell whether a comparison holds; None if it depends on what is not known here."""
        if self._is_view and (compare.range_end or compare.key not in self._places):
            return None
        cells = [state[n] for n in self._within(compare.key, compare.range_end)]
        present = [cell for cell in cells if cell is not None]
        target, result = compare.target, compare.result
        if target == rpc_pb2.Compare.VALUE:
            return bool(present) and all(
                _compares(cell.value, compare.value, result) for cell in present
            )
        given, field = _OPERANDS[target](compare), _FIELDS[target]
        actual = [int(getattr(cell, field)) for cell in present] or [0]
        if any(number < 0 for number in actual) and field in {"create", "mod"}:
            certain = [_compares(n, given, result) for n in actual if n >= 0]
            # A key that is there has been made: no revision of it is 0.
            unequal = given == 0 and result in {rpc_pb2.Compare.EQUAL, rpc_pb2.Compare.LESS}
            return False if unequal or not all(certain) else None
        return all(_compares(number, given, result) for number in actual)


_OPERANDS: dict[int, Callable[[rpc_pb2.Compare], int]] = {
    rpc_pb2.Compare.VERSION: lambda compare: compare.version,
    rpc_pb2.Compare.CREATE: lambda compare: compare.create_revision,
    rpc_pb2.Compare.MOD: lambda compare: compare.mod_revision,
    rpc_pb2.Compare.LEASE: lambda compare: compare.lease,
}
_FIELDS: dict[int, str] = {
    rpc_pb2.Compare.VERSION: "version",
    rpc_pb2.Compare.CREATE: "create",
    rpc_pb2.Compare.MOD: "mod",
    rpc_pb2.Compare.LEASE: "lease",
}


def _compares(actual: Any, given: Any, result: int) -> bool:  # noqa: ANN401 - numbers or bytes
    match result:
        case rpc_pb2.Compare.EQUAL:
            return bool(actual == given)
        case rpc_pb2.Compare.NOT_EQUAL:
            return bool(actual != given)
        case rpc_pb2.Compare.GREATER:
            return bool(actual > given)
        case _:
            return bool(actual < given)


def _part(answer: rpc_pb2.ResponseOp, request_field: str) -> Any:  # noqa: ANN401 - one of four messages
    return getattr(answer, request_field.replace("request", "response"))


def _shows(pair: kv_pb2.KeyValue | None, cell: Cell | None, *, keys_only: bool) -> bool:
    """Tell whether a pair in an answer is what a cell holds."""
    if pair is None or cell is None:
        return pair is None and cell is None
    return (
        (keys_only or pair.value == cell.value)
        and pair.version == cell.version
        and pair.lease == cell.lease
        and (cell.create < 0 or pair.create_revision == cell.create)
        and (cell.mod < 0 or pair.mod_revision == cell.mod)
    )
