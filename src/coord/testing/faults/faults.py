"""The list of faults, and how clients come under it."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from typing import TYPE_CHECKING

from coord.errors import InvalidArgument
from coord.rpc.status import StatusCode
from coord.testing.faults.gate import Gate
from coord.testing.faults.rules import Action, Call, FaultRule, find_path, known_methods
from coord.testing.faults.transport import FaultyTransport
from coord.transport import taps

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from coord.transport import Transport

OBSERVER = "observer"
"""The ``name=`` of clients that no fault hits, for looking at the store meanwhile."""

# What a long test makes must not fill the memory; who looks at calls looks at the last ones.
_CALLS_KEPT = 10_000


class Faults:
    """Faults for the requests of clients, by method, by number, or by what is in them.

    Each method below adds one fault and returns its :class:`FaultRule`. Common to all:
    ``method`` is a name of the etcd API (``Put``, ``KV/Put``; see :attr:`Call.method`), None any.
    ``when(call)`` says whether a request is meant; it runs on the client's thread.
    ``client`` takes only the client of that ``name=``.
    ``nth`` is the first of the matching requests to be hit, from 1; ``times`` how many are, None for all from there.
    The oldest fault that takes a request is the only one applied to it. An unknown method raises InvalidArgument.

    Streams (watches, keep-alives) are hit by the message, as a network would: it never loses one message and carries
    the next, so that to drop one ends the stream, or silences it.

    All methods may be called from any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rules: list[FaultRule] = []
        self._everybody = Gate()
        self._gates: dict[str, Gate] = {}
        self._calls: deque[Call] = deque(maxlen=_CALLS_KEPT)

    @contextlib.contextmanager
    def everywhere(self) -> Generator[None]:
        """Put every client that this process connects during the block under these faults; clear them at its end.

        Clients with ``name="observer"`` are left alone.
        """
        take_away = taps.insert(self.under)
        try:
            yield
        finally:
            take_away()
            self.clear()

    def under(self, client: str, transport: Transport) -> Transport:
        """Return a carrier with these faults; what ``coord.transport.taps`` wants."""
        if client == OBSERVER:
            return transport
        return FaultyTransport(transport, self, client).as_transport()

    # The faults.

    def drop_request(
        self,
        method: str | None = None,
        *,
        when: Callable[[Call], bool] | None = None,
        client: str | None = None,
        nth: int = 1,
        times: int | None = 1,
        silent: bool = False,
    ) -> FaultRule:
        """Lose a request: it is not applied, and the caller cannot know.

        The caller sees its connection end; with ``silent``, nothing at all until its timeout.
        """
        return self._add(Action.DROP_REQUEST, method, when, client, nth, times, silent=silent)

    def drop_reply(
        self,
        method: str | None = None,
        *,
        when: Callable[[Call], bool] | None = None,
        client: str | None = None,
        nth: int = 1,
        times: int | None = 1,
        silent: bool = False,
    ) -> FaultRule:
        """Lose an answer: the request is applied, and the caller cannot know. ``silent`` as above."""
        return self._add(Action.DROP_REPLY, method, when, client, nth, times, silent=silent)

    def delay(
        self,
        method: str | None = None,
        seconds: float = 0.1,
        *,
        when: Callable[[Call], bool] | None = None,
        client: str | None = None,
        nth: int = 1,
        times: int | None = 1,
    ) -> FaultRule:
        """Let a request leave ``seconds`` later, and on a stream everything behind it."""
        if not seconds >= 0:
            raise InvalidArgument(f"a delay is 0 seconds or more, not {seconds}")
        return self._add(Action.DELAY, method, when, client, nth, times, seconds=seconds)

    def fail(
        self,
        method: str | None = None,
        code: StatusCode = StatusCode.UNAVAILABLE,
        message: str = "",
        *,
        when: Callable[[Call], bool] | None = None,
        client: str | None = None,
        nth: int = 1,
        times: int | None = 1,
    ) -> FaultRule:
        """Answer with a gRPC status instead of asking the server. ``message`` may be one of etcd's own texts."""
        if code is StatusCode.OK:
            raise InvalidArgument("OK is no failure")
        return self._add(Action.FAIL, method, when, client, nth, times, code=code, text=message)

    def duplicate(
        self,
        method: str | None = None,
        *,
        when: Callable[[Call], bool] | None = None,
        client: str | None = None,
        nth: int = 1,
        times: int | None = 1,
        late: bool = False,
    ) -> FaultRule:
        """Let a request arrive twice; the caller gets the first answer once both have been given.

        With ``late`` it gets its answer at once, and the copy arrives at :meth:`FaultRule.release`.
        A stream has no duplicates: its methods raise InvalidArgument, and are passed over where none is named.
        """
        path = None if method is None else find_path(method)
        if path is not None and known_methods()[path].client_streaming:
            raise InvalidArgument(f"{method} is a stream, where nothing arrives twice")
        gate = Gate(is_open=not late)
        return self._add(Action.DUPLICATE, method, when, client, nth, times, gate=gate)

    def late(
        self,
        method: str | None = None,
        *,
        when: Callable[[Call], bool] | None = None,
        client: str | None = None,
        nth: int = 1,
        times: int | None = 1,
    ) -> FaultRule:
        """Let a request arrive long after its caller saw its connection end: at :meth:`FaultRule.release`.

        What a stale holder sends comes so. On a stream it is a ``drop_request``: what was sent ends with it.
        """
        return self._add(Action.LATE, method, when, client, nth, times, gate=Gate(is_open=False))

    def hold(
        self,
        method: str | None = None,
        *,
        when: Callable[[Call], bool] | None = None,
        client: str | None = None,
        nth: int = 1,
        times: int | None = 1,
    ) -> FaultRule:
        """Keep a request under way until :meth:`FaultRule.release`; a caller that has given up does not stop it."""
        return self._add(Action.HOLD, method, when, client, nth, times, gate=Gate(is_open=False))

    def isolate(self, client: str | None = None) -> None:
        """Let nothing pass in either direction, for all clients or the one of that name, until :meth:`heal`.

        What is under way arrives once it is healed, unless an end has given up.
        """
        self._gate_of(client).close()

    def heal(self, client: str | None = None) -> None:
        """End :meth:`isolate`, for all clients or for one."""
        if client is None:
            for gate in tuple(self._gates.values()):
                gate.open()
        self._gate_of(client).open()

    def clear(self) -> None:
        """Remove all faults, heal, and forget the calls."""
        with self._lock:
            rules, self._rules = self._rules, []
            self._calls.clear()
        for rule in rules:
            rule.remove()
        self.heal()

    # What was seen, and what carriers ask.

    @property
    def calls(self) -> tuple[Call, ...]:
        """The requests so far, the last 10,000 at most, those of streams included."""
        with self._lock:
            return tuple(self._calls)

    def count(self, method: str) -> int:
        """Return how many requests of ``method`` there were among :attr:`calls`."""
        path = find_path(method)
        return sum(call.path == path for call in self.calls)

    def match(self, call: Call, *, is_stream: bool) -> FaultRule | None:
        """Note a request, and return what happens to it."""
        with self._lock:
            self._calls.append(call)
            for rule in self._rules:
                if is_stream and rule.action is Action.DUPLICATE:
                    continue
                if rule.takes(call):
                    return rule
        return None

    def is_isolated(self, client: str) -> bool:
        """Say whether nothing passes between ``client`` and its servers."""
        gate = self._gates.get(client)
        return not self._everybody.is_open or (gate is not None and not gate.is_open)

    async def passage(self, client: str) -> None:
        """Return once something passes."""
        while self.is_isolated(client):
            await self._everybody.passed()
            await self._gate_of(client).passed()

    def _gate_of(self, client: str | None) -> Gate:
        return self._everybody if client is None else self._gates.setdefault(client, Gate())

    def _add(
        self,
        action: Action,
        method: str | None,
        when: Callable[[Call], bool] | None,
        client: str | None,
        nth: int,
        times: int | None,
        *,
        silent: bool = False,
        seconds: float = 0.0,
        code: StatusCode = StatusCode.UNAVAILABLE,
        text: str = "",
        gate: Gate | None = None,
    ) -> FaultRule:
        if nth < 1 or (times is not None and times < 1):
            raise InvalidArgument(f"nth and times count from 1, not {nth} and {times}")
        rule = FaultRule(
            action=action,
            path=None if method is None else find_path(method),
            when=when,
            client=client,
            nth=nth,
            times=times,
            silent=silent,
            seconds=seconds,
            code=code,
            text=text,
            gate=gate or Gate(),
        )
        with self._lock:
            self._rules.append(rule)
        return rule
