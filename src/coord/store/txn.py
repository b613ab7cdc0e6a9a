"""Transactions: operations, and the builder that joins them with comparisons (etcd API: Txn).

    op.put("k", "v", lease=lease.lease_id)

Comparisons are made in :mod:`coord.store.comparing`, and can be had from here too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from coord.errors import AmbiguousResult, InvalidArgument
from coord.store import operations as op
from coord.store.caller import Caller, Repeat, decode
from coord.store.comparing import Compare
from coord.store.keyspace import EVERYTHING, Keyspace
from coord.store.kv import (
    delete_result,
    put_result,
    range_result,
)
from coord.store.operations import Op, txn_body, txn_request
from coord.store.txn_limits import DEFAULT_MAX_TXN_OPS, check_size
from coord.store.value_limits import DEFAULT_MAX_VALUE_BYTES
from coord.store.values import DeleteResult, PutResult, RangeResult
from coord.wire import methods, rpc_pb2

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


@dataclass(frozen=True, slots=True, kw_only=True)
class TxnResult:
    """Which branch ran, what each of its operations returned, and the store's revision after it."""

    succeeded: bool
    responses: tuple[RangeResult | PutResult | DeleteResult | TxnResult, ...]
    revision: int

    def range(self, index: int) -> RangeResult:
        """Return the answer of the read at ``index`` of the branch that ran."""
        response = self.responses[index]
        if not isinstance(response, RangeResult):
            raise InvalidArgument(
                f"operation {index} was not a read but gave {type(response).__name__}"
            )
        return response


def txn_result(response: rpc_pb2.TxnResponse, skip: int = 0) -> TxnResult:
    """Convert a TxnResponse; ``skip`` as for :meth:`KeyValue.from_wire`."""
    return TxnResult(
        succeeded=response.succeeded,
        responses=tuple([_op_result(r, skip) for r in response.responses[:]]),
        revision=response.header.revision,
    )


def _op_result(
    response: rpc_pb2.ResponseOp, skip: int
) -> RangeResult | PutResult | DeleteResult | TxnResult:
    match response.WhichOneof("response"):
        case "response_range":
            return range_result(response.response_range, skip)
        case "response_put":
            return put_result(response.response_put, skip)
        case "response_delete_range":
            return delete_result(response.response_delete_range, skip)
        case _:
            return txn_result(response.response_txn, skip)


class TxnRunner:
    """Sends transactions."""

    def __init__(
        self,
        caller: Caller,
        keyspace: Keyspace = EVERYTHING,
        max_ops: int = DEFAULT_MAX_TXN_OPS,
        max_value_bytes: int = DEFAULT_MAX_VALUE_BYTES,
    ) -> None:
        self._caller = caller
        self._keyspace = keyspace
        self.max_ops = max_ops
        self.max_value_bytes = max_value_bytes

    async def run(
        self,
        when: tuple[Compare, ...],
        then: tuple[Op, ...],
        otherwise: tuple[Op, ...] = (),
        *,
        repeat: Repeat | None = None,
        timeout: float | None = None,
        resolver: Callable[[], Awaitable[object]] | None = None,
    ) -> TxnResult:
        """Run one transaction.

        ``repeat`` None: READ if every operation reads, else ONCE. Pass IDEMPOTENT only for a transaction that may
        be applied twice by its construction.
        Raises :class:`AmbiguousResult` when the outcome is unknown, and :class:`TxnTooLarge` before sending.
        """
        request = self._encode(when, then, otherwise)
        if repeat is None:
            repeat = Repeat.READ if _reads_only(then) and _reads_only(otherwise) else Repeat.ONCE
        try:
            answer = await self._caller.call_raw(
                methods.KV_TXN.path, request, repeat=repeat, timeout=timeout
            )
        except AmbiguousResult as error:
            raise AmbiguousResult(
                error.operation, error.reason, resolver=resolver
            ) from error.__cause__
        return txn_result(decode(rpc_pb2.TxnResponse, answer), self._keyspace.size)

    def _encode(
        self, when: tuple[Compare, ...], then: tuple[Op, ...], otherwise: tuple[Op, ...]
    ) -> bytes:
        """Return the request, checked and moved into the namespace; as a message only where that is needed."""
        if (
            self._keyspace.size
            or max(len(when), len(then), len(otherwise)) > self.max_ops
            or any(o.is_txn for o in then + otherwise)
        ):
            request = txn_request(when, then, otherwise)
            check_size(request, self.max_ops)
            self._keyspace.txn(request)
            return request.SerializeToString()
        return txn_body(when, then, otherwise)


def _reads_only(ops: tuple[Op, ...]) -> bool:
    return all(o.is_read for o in ops)


def present_state(runner: TxnRunner, ops: tuple[Op, ...]) -> Callable[[], Awaitable[TxnResult]]:
    """Return a reading of all keys that ``ops`` write, in their order, for ``AmbiguousResult.resolve()``."""

    def resolve() -> Awaitable[TxnResult]:
        # Not before: hardly any transaction comes to this.
        reads: list[Op] = []
        for each in [o.wire for o in ops]:
            match each.WhichOneof("request"):
                case "request_put":
                    reads.append(op.get(each.request_put.key))
                case "request_delete_range":
                    deleted = each.request_delete_range
                    start, end = deleted.key, deleted.range_end
                    reads.append(op.get_range(start, end) if end else op.get(start))
                case _:
                    pass
        return runner.run((), tuple(reads))

    return resolve


class Txn:
    """Builds one transaction: ``when()``, ``then()`` and ``otherwise()``, each at most once and in this order.

    Comparisons are joined by *and*; without any, ``then()`` runs. Made by ``client.txn()``.
    """

    def __init__(self, runner: TxnRunner, *, guards: tuple[Compare, ...] = ()) -> None:
        self._runner = runner
        self._guards = guards
        self._when: tuple[Compare, ...] | None = None
        self._then: tuple[Op, ...] | None = None
        self._otherwise: tuple[Op, ...] | None = None

    def when(self, *comparisons: Compare) -> Self:
        """Set the comparisons that all must hold. Raises :class:`InvalidArgument` out of order."""
        if self._when is not None or self._then is not None or self._otherwise is not None:
            raise InvalidArgument("when() comes once, before then() and otherwise()")
        for each in comparisons:
            if not isinstance(each, Compare):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise InvalidArgument(  # pyright: ignore[reportUnreachable]
                    f"when() takes comparisons such as compare.version(key) == 0, not {type(each).__name__}"
                )
        self._when = comparisons
        return self

    def then(self, *ops: Op) -> Self:
        """Set what runs when the comparisons hold. Raises :class:`InvalidArgument` out of order."""
        if self._then is not None or self._otherwise is not None:
            raise InvalidArgument("then() comes once, before otherwise()")
        self._then = _checked("then()", ops)
        return self

    def otherwise(self, *ops: Op) -> Self:
        """Set what runs when they do not. Raises :class:`InvalidArgument` the second time."""
        if self._otherwise is not None:
            raise InvalidArgument("otherwise() comes once")
        self._otherwise = _checked("otherwise()", ops)
        return self

    async def commit(self, *, timeout: float | None = None) -> TxnResult:
        """Send it and return what happened. A builder may be committed again.

        Raises :class:`AmbiguousResult` when the answer did not arrive and the transaction writes; ``resolve()`` reads
        the keys that it would have written, in the order of the operations.
        """
        then, otherwise = self._then or (), self._otherwise or ()
        return await self._runner.run(
            self._guards + (self._when or ()),
            then,
            otherwise,
            timeout=timeout,
            resolver=present_state(self._runner, then + otherwise),
        )


def _checked(where: str, ops: tuple[Op, ...]) -> tuple[Op, ...]:
    for each in ops:
        if not isinstance(each, Op):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidArgument(  # pyright: ignore[reportUnreachable]
                f"{where} takes operations such as op.put(key, value), not {type(each).__name__}"
            )
    return ops
