"""Which request a fault is for, and what happens to it: values, and the count of what was hit."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from dataclasses import dataclass, field
from enum import Enum
from functools import cache
from typing import TYPE_CHECKING, Any

from coord.errors import InvalidArgument
from coord.rpc.status import RpcError, StatusCode
from coord.testing.faults.gate import Gate

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from coord.wire.methods import Rpc

HIT_WITHIN_S = 10.0


class Action(Enum):
    """What happens to a request."""

    DROP_REQUEST = "drop request"
    DROP_REPLY = "drop reply"
    DELAY = "delay"
    FAIL = "fail"
    DUPLICATE = "duplicate"
    HOLD = "hold"
    LATE = "late"


@cache
def known_methods() -> dict[str, Rpc[Any, Any]]:
    """Return every method of the API by its path."""
    from coord.wire import methods  # the messages, which only users of faults pay for

    return {rpc.path: rpc for rpc in vars(methods).values() if isinstance(rpc, methods.Rpc)}


@cache
def find_path(method: str) -> str:
    """Return the path of a method that is named ``Put``, ``KV/Put`` or in full. Raises InvalidArgument."""
    named: dict[str, str] = {}
    # Both etcd and the health service have a Watch; the short name is etcd's.
    for path in sorted(known_methods(), key=lambda path: "etcdserverpb" in path):
        named |= {path: path, path.rpartition(".")[2]: path, path.rpartition("/")[2]: path}
    if method not in named:
        names = sorted(name for name in named if name.count("/") == 1 and not name.startswith("/"))
        raise InvalidArgument(f"{method!r} is no method; take one of {', '.join(names)}")
    return named[method]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request on its way: a call, or one message of a stream."""

    client: str
    """The ``name=`` of the client that makes it."""
    path: str
    request: bytes

    @property
    def method(self) -> str:
        """Service and method, such as ``KV/Put``."""
        return self.path.rpartition(".")[2]

    @property
    def message(self) -> Any:  # noqa: ANN401 - of the type that the method takes
        """The request, decoded; of the method's own message type (etcd API)."""
        return known_methods()[self.path].request.FromString(self.request)


@dataclass(eq=False, slots=True, kw_only=True)
class FaultRule:
    """One fault, and whom it is for. Made by the methods of :class:`Faults`; ``remove()`` ends it."""

    action: Action
    path: str | None
    when: Callable[[Call], bool] | None
    client: str | None
    nth: int
    times: int | None
    silent: bool = False
    seconds: float = 0.0
    code: StatusCode = StatusCode.UNAVAILABLE
    text: str = ""
    gate: Gate = field(default_factory=Gate)
    matched: int = 0
    hits: int = 0
    """How many requests it was applied to."""
    removed: bool = False
    under_way: int = 0
    """How many requests it keeps that nobody waits for any more."""
    _settled: Gate = field(default_factory=Gate)
    _hit: threading.Event = field(default_factory=threading.Event)

    def takes(self, call: Call) -> bool:
        """Say whether it is applied to ``call``, and count. Under the lock of its :class:`Faults` only."""
        if self.removed or (self.times is not None and self.hits >= self.times):
            return False
        if self.path not in {None, call.path} or self.client not in {None, call.client}:
            return False
        if self.when is not None and not self.when(call):
            return False
        self.matched += 1
        if self.matched < self.nth:
            return False
        self.hits += 1
        self._hit.set()
        return True

    def remove(self) -> None:
        """Apply it to nothing more; what it holds goes on its way, where somebody still waits for the answer."""
        self.removed = True
        self.gate.open()

    def release(self) -> None:
        """Let what a ``hold`` or a ``late`` keeps go on its way, also where the caller has given up meanwhile."""
        self.gate.open()

    async def arrive(self) -> int:
        """As :meth:`release`; return how many there were that nobody waits for, once all of these were processed."""
        count = self.under_way
        self.gate.open()
        await self._settled.passed()
        return count

    @contextlib.contextmanager
    def keeping(self) -> Generator[None]:
        """Count a request that nobody waits for; on the client's loop."""
        self.under_way += 1
        self._settled.close()
        try:
            yield
        finally:
            self.under_way -= 1
            if not self.under_way:
                self._settled.open()

    def wait_hit(self, timeout: float = HIT_WITHIN_S) -> None:
        """Block until it was applied to a request. Raises TimeoutError after ``timeout`` seconds."""
        if not self._hit.wait(timeout):
            raise TimeoutError(
                f"no request met the fault {self.action.value!r} within {timeout:g} s"
            )

    async def hit(self, timeout: float = HIT_WITHIN_S) -> None:
        """As :meth:`wait_hit`, while the caller's loop goes on."""
        await asyncio.to_thread(self.wait_hit, timeout)

    def lost(self) -> RpcError:
        """Return what a caller sees whose connection ended under its request."""
        return RpcError(StatusCode.UNAVAILABLE, f"injected: {self.action.value}", sent=True)

    def error(self) -> RpcError:
        """Return the error of a ``fail``."""
        return RpcError(self.code, self.text or f"injected: {self.code.name}", sent=True)


def late(timeout: float) -> RpcError:
    """Return what a caller sees that got no answer in time."""
    return RpcError(
        StatusCode.DEADLINE_EXCEEDED, f"injected: no answer within {timeout:g} s", sent=True
    )
