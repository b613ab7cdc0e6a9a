"""``etcdserverpb.Lease``: grant, revoke, keep alive, time to live, list.

Grants and revocations go through the log. A renewal does not: it moves a deadline that only the
primary has (``coord_server.lease``), and is answered inside the parser.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from typing_extensions import override

from coord.rpc.service import Method
from coord.rpc.status import RpcError, StatusCode
from coord.wire import fast, rpc_pb2
from coord.wire import methods as rpcs
from coord_server import errors
from coord_server.api.context import parse, parse_streamed
from coord_server.api.leader_guard import LeaderGuard
from coord_server.api.primary import RENEW_KIND, TIME_TO_LIVE_KIND
from coord_server.api.space import GRANT_COST
from coord_server.errors import Refused
from coord_server.ops import OpKind, encode_in_term

if TYPE_CHECKING:
    from collections.abc import Callable

    from coord.rpc.metadata import Metadata
    from coord.rpc.server_core import ServerConnection
    from coord.rpc.server_stream import ServerStream
    from coord.rpc.service import RequestHead
    from coord_server.api.context import ApiContext
    from coord_server.api.primary import Primary

_ID_BITS = 63
# Leases whose answers one stream remembers; a stream seldom renews more than a handful.
_KNOWN_LIMIT = 1024
# A plain request: a tag and a number. Longer ones are odd, and not worth remembering.
_PLAIN_BYTES = 11


def choose_lease_id(context: ApiContext) -> int:
    """Return a positive id that no lease has: random, so members need not agree on who draws what."""
    while True:
        lease_id = context.env.rand.bits(_ID_BITS)
        if lease_id and not context.lessor.exists(lease_id):
            return lease_id


class Leases:
    """The service. ``primary`` is the way to the leader, for members that do not lead."""

    def __init__(self, context: ApiContext, primary: Primary) -> None:
        self._context = context
        self._primary = primary
        self._guard = LeaderGuard(context)

    def grant(
        self, connection: ServerConnection, stream_id: int, head: RequestHead, message: bytes
    ) -> bytes | None:
        """Propose a lease, under an id chosen here if the client left that open."""
        context = self._context
        context.check_head(head)
        if context.room.left <= GRANT_COST:
            context.room.refuse(connection, stream_id)
            return None
        request = parse(rpc_pb2.LeaseGrantRequest, message)
        if not request.ID:
            request.ID = choose_lease_id(context)
            message = request.SerializeToString()
        context.check_size(message)
        context.replica.propose(OpKind.LEASE_GRANT, message, connection, stream_id)
        return None

    def revoke(
        self, connection: ServerConnection, stream_id: int, head: RequestHead, message: bytes
    ) -> bytes | None:
        """Propose the end of a lease and of its keys."""
        context = self._context
        context.check_head(head)
        parse(rpc_pb2.LeaseRevokeRequest, message)
        context.check_size(message)
        context.replica.propose(OpKind.LEASE_REVOKE, message, connection, stream_id)
        return None

    def time_to_live(
        self, connection: ServerConnection, stream_id: int, head: RequestHead, message: bytes
    ) -> bytes | None:
        """Tell the remaining time, once everything acknowledged before has been applied."""
        context = self._context
        context.check_head(head)
        request = parse(rpc_pb2.LeaseTimeToLiveRequest, message)
        if context.replica.read_ready():
            return self._time_to_live(request)
        context.replica.when_readable(
            lambda: self._tell_time_to_live(connection, stream_id, request),
            lambda spec: connection.fail(stream_id, spec.code, spec.message),
        )
        return None

    def _tell_time_to_live(
        self,
        connection: ServerConnection,
        stream_id: int,
        request: rpc_pb2.LeaseTimeToLiveRequest,
    ) -> None:
        """Answer with what this member knows if it is the primary, else with what the primary does."""
        if self._context.lessor.primary:
            connection.respond(stream_id, self._time_to_live(request))
            return

        def answer(body: bytes) -> None:
            connection.respond(stream_id, self._context.header() + body)

        def fail(error: RpcError) -> None:
            connection.fail(stream_id, error.code, error.message)

        self._primary.ask(TIME_TO_LIVE_KIND, request.SerializeToString(), answer, fail)

    def _time_to_live(self, request: rpc_pb2.LeaseTimeToLiveRequest) -> bytes:
        return self._context.header() + self._remaining(request)

    def _remaining(self, request: rpc_pb2.LeaseTimeToLiveRequest) -> bytes:
        context = self._context
        lessor = context.lessor
        remaining = lessor.remaining(request.ID, context.env.clock.mono())
        answer = rpc_pb2.LeaseTimeToLiveResponse(ID=request.ID)
        if remaining is None:
            answer.TTL = -1
        else:
            answer.TTL = int(remaining)
            answer.grantedTTL = lessor.granted_ttl(request.ID)
            if request.keys:
                answer.keys.extend(lessor.keys(request.ID))
        return answer.SerializeToString()

    def leases(
        self, connection: ServerConnection, stream_id: int, head: RequestHead, message: bytes
    ) -> bytes | None:
        """List what this member knows, without asking the others."""
        del connection, stream_id
        context = self._context
        context.check_head(head)
        parse(rpc_pb2.LeaseLeasesRequest, message)
        statuses = [rpc_pb2.LeaseStatus(ID=lease_id) for lease_id in context.lessor.ids()]
        answer = rpc_pb2.LeaseLeasesResponse(leases=statuses)
        return context.header() + answer.SerializeToString()

    def keep_alive(self, stream: ServerStream) -> None:
        """Serve a stream of renewals."""
        try:
            needs_leader = self._context.check_stream_head(stream.head)
        except RpcError as error:
            stream.finish(error.code, error.message)
            return
        renewals = _Renewals(self._context, stream, self._primary)
        stream.on_message = renewals.renew
        stream.on_half_close = stream.finish
        if needs_leader:
            guard = self._guard
            guard.watch_over(stream)
            stream.on_closed = lambda: guard.let_go(stream)

    # What members that do not lead ask.

    async def renew_here(self, request: bytes) -> bytes:
        """Answer the question ``RENEW_KIND``. Raises RpcError, NOT_PRIMARY_LESSOR among others."""
        once = _Once(asyncio.get_running_loop().create_future())
        _Renewals(self._context, once, None).renew(request)
        return await once.answer

    async def time_to_live_here(self, request: bytes) -> bytes:
        """Answer the question ``TIME_TO_LIVE_KIND``. Raises RpcError, NOT_PRIMARY_LESSOR among others."""
        replica = self._context.replica
        # The member that asks may have applied more than this one, and told a client of it.
        await replica.wait_applied(replica.committed_index)
        if not self._context.lessor.primary:
            raise Refused(errors.NOT_PRIMARY_LESSOR)
        return self._remaining(parse(rpc_pb2.LeaseTimeToLiveRequest, request))

    def methods(self) -> list[Method]:
        """Return the methods of the service."""
        return [
            Method(rpcs.LEASE_GRANT.path, unary=self.grant),
            Method(rpcs.LEASE_REVOKE.path, unary=self.revoke),
            Method(rpcs.LEASE_TIME_TO_LIVE.path, unary=self.time_to_live),
            Method(rpcs.LEASE_LEASES.path, unary=self.leases),
            Method(rpcs.LEASE_KEEP_ALIVE.path, stream=self.keep_alive),
        ]


class _Asker(Protocol):
    """Who gets the answers: a keepalive stream, or a member that asks for one renewal."""

    def send(self, message: bytes) -> None: ...

    def finish(self, code: int = 0, message: str = "") -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class _Once(_Asker):
    """Takes the one answer of a question."""

    def __init__(self, answer: asyncio.Future[bytes]) -> None:
        self.answer = answer

    @override
    def send(self, message: bytes) -> None:
        if not self.answer.done():
            self.answer.set_result(message)

    @override
    def finish(self, code: int = 0, message: str = "") -> None:
        if not self.answer.done():
            self.answer.set_exception(RpcError(StatusCode(code), message))

    @override
    def pause_reading(self) -> None:
        """There is nothing more to read."""

    @override
    def resume_reading(self) -> None:
        """There is nothing more to read."""


class _Renewals:
    """One keepalive stream: one answer for each request, in order."""

    __slots__ = (
        "_is_waiting", "_known", "_lessor", "_mono", "_primary", "_replica", "_stamp", "_store",
        "_stream",
    )  # fmt: skip

    def __init__(self, context: ApiContext, stream: _Asker, primary: Primary | None) -> None:
        # By request: the lease, its TTL, and the end of the answer. Clients repeat themselves.
        self._known: dict[bytes, tuple[int, int, bytes]] = {}
        # A request is not answered yet, and the ones behind it are not read.
        self._is_waiting = False
        self._stream = stream
        self._primary = primary
        self._lessor = context.lessor
        self._store = context.store
        self._stamp = context.stamp
        self._replica = context.replica
        self._mono = context.env.clock.mono

    def renew(self, message: bytes) -> None:
        """Renew and answer; TTL 0 for a lease that does not exist."""
        known = self._known.get(message)
        now = self._mono()
        replica = self._replica
        if (now > replica.fresh_until or replica.lags) and self._lessor.primary:
            self._make_sure(message)
            return
        # The header comes first: at its revision the lease was alive, if it is renewed below.
        header = self._stamp.field(self._store.revision, self._replica.term)
        if known is not None:
            lease_id, ttl, tail = known
            if self._lessor.renew(lease_id, now) == ttl:
                self._stream.send(header + tail)
                return
        self._renew_unknown(message, header)

    def _make_sure(self, message: bytes) -> None:
        """Renew once it is certain that this member still leads, and knows all that others know.

        It was not heard from for a while; or another member has applied what this one has not, and has
        told its client that the lease exists, or that it was revoked.
        """
        stream = self._stream

        def renew() -> None:
            header = self._stamp.field(self._store.revision, self._replica.term)
            self._renew_unknown(message, header, is_sure=True)

        self._wait()
        self._replica.when_readable(
            lambda: self._go_on(renew), lambda spec: stream.finish(spec.code, spec.message)
        )

    def _wait(self) -> None:
        """Let later requests wait for the answer to this one."""
        self._is_waiting = True
        self._stream.pause_reading()

    def _go_on(self, answer: Callable[[], None]) -> None:
        """Answer what had to wait, and read on, unless it has to wait again."""
        self._is_waiting = False
        answer()
        if not self._is_waiting:
            self._stream.resume_reading()

    def _renew_unknown(self, message: bytes, header: bytes, *, is_sure: bool = False) -> None:
        lease_id = fast.decode_keep_alive(message)
        if lease_id is None:
            try:
                lease_id = parse_streamed(rpc_pb2.LeaseKeepAliveRequest, message).ID
            except RpcError as error:
                self._stream.finish(error.code, error.message)
                return
        if self._lessor.must_clear(lease_id, self._mono()):
            self._clear_first(lease_id, message)
            return
        ttl = self._lessor.renew(lease_id, self._mono())
        if ttl is None:
            self._refuse(lease_id, message, header, is_sure=is_sure)
            return
        tail = fast.encode_keep_alive_response(b"", lease_id, ttl)
        if len(message) <= _PLAIN_BYTES:
            if len(self._known) >= _KNOWN_LIMIT:
                self._known.clear()
            self._known[message] = lease_id, ttl, tail
        self._stream.send(header + tail)

    def _clear_first(self, lease_id: int, message: bytes) -> None:
        """Take the lease's checkpoint back through the log, then renew; later requests wait."""
        self._wait()
        request = rpc_pb2.LeaseCheckpointRequest()
        request.checkpoints.add(ID=lease_id)
        payload = encode_in_term(
            self._replica.term, OpKind.LEASE_CHECKPOINT, request.SerializeToString()
        )
        self._lessor.begin_clear(lease_id)
        cleared = _Cleared(
            self._stream,
            done=lambda: self._lessor.end_clear(lease_id),
            run=lambda: self._go_on(lambda: self.renew(message)),
        )
        self._replica.propose(OpKind.IN_TERM, payload, cleared, 0)

    def _refuse(self, lease_id: int, message: bytes, header: bytes, *, is_sure: bool) -> None:
        lessor = self._lessor
        stream = self._stream
        if not lessor.primary:
            if self._primary is None:
                spec = errors.NOT_PRIMARY_LESSOR
                stream.finish(spec.code, spec.message)
            else:
                self._wait()
                self._primary.ask(
                    RENEW_KIND,
                    message,
                    lambda body: self._go_on(lambda: self._pass_on(body)),
                    lambda error: stream.finish(error.code, error.message),
                )
        elif lessor.is_expired(lease_id, self._mono()):
            # Its end may be in the log already. Only when that is applied is "gone" the truth, and
            # later requests wait behind this one.
            self._wait()
            lessor.when_gone(lease_id, lambda: self._go_on(lambda: self.renew(message)))
        elif is_sure or self._replica.read_ready():
            stream.send(fast.encode_keep_alive_response(header, lease_id, 0))
        else:
            # A leader that does not know yet of its successor does not know either what that has granted.
            self._make_sure(message)

    def _pass_on(self, body: bytes) -> None:
        """Send what the leader has answered, under this member's header."""
        answer = rpc_pb2.LeaseKeepAliveResponse.FromString(body)
        header = self._stamp.field(self._store.revision, self._replica.term)
        self._stream.send(fast.encode_keep_alive_response(header, answer.ID, answer.TTL))


class _Cleared:
    """Hears that a checkpoint is gone; ``done`` is called in any case, ``run`` then."""

    def __init__(
        self, stream: _Asker, *, done: Callable[[], None], run: Callable[[], None]
    ) -> None:
        self._stream = stream
        self._done = done
        self._run = run

    def respond(self, stream_id: int, message: bytes) -> None:
        """Go on with the renewal."""
        del stream_id, message
        self._done()
        self._run()

    def fail(self, stream_id: int, code: int, message: str, trailers: Metadata = ()) -> None:
        """End the stream: whether the lease could be renewed is not known."""
        del stream_id, trailers
        self._done()
        self._stream.finish(code, message)
