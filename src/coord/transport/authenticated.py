"""A transport that says who the client is, around any other; nothing above it needs to know.

Every call and stream carries the token.
A call that the server turns down because of its token had no effect, so it is made again with another one, at most
``_RENEWALS`` times: a storm of changes to users and roles can outrun the first.
A stream that ends because of its token ends as if its connection had been lost, since that is what its owner has to do
about it: open another, which carries a fresh token, and go on where it was.
"""

from __future__ import annotations

import asyncio
from copy import copy
from typing import TYPE_CHECKING

from coord.rpc.status import RpcError, StatusCode
from coord.runtime import Supervisor
from coord.transport.tokens import Token, TokenSource, is_stale

if TYPE_CHECKING:
    from collections.abc import Callable

    from coord.credentials import Credentials
    from coord.rpc.metadata import Metadata
    from coord.runtime import Address, Env
    from coord.transport.base import Cancellable, MessageStream, Transport

_RENEWALS = 3
# A stream outlives its token, and what is started on it later is checked against it too; members also count the
# unused time of a token each for itself. Hence streams begin with a young one, and login is not repeated for each.
_STREAM_TOKEN_AGE_S = 60.0


class _Call:
    """A unary call with a callback: on the wire, or in a task that waits for a token."""

    __slots__ = ("_done", "_handle", "_over", "_owner")

    def __init__(
        self, owner: AuthenticatedTransport, done: Callable[[bytes | RpcError], None]
    ) -> None:
        self._owner = owner
        self._done = done
        self._handle: Cancellable | None = None
        self._over = False

    def begin(self, path: str, request: bytes, timeout: float, metadata: Metadata) -> None:
        owner = self._owner
        token = owner.tokens.current
        if token is None:
            self._handle = owner.in_task(path, request, timeout, metadata, self.end)
            return
        deadline = owner.env.clock.mono() + timeout

        def outcome_of_first(outcome: bytes | RpcError) -> None:
            if not isinstance(outcome, RpcError):
                token.worked = True
            elif is_stale(outcome, token) and not self._over:
                owner.tokens.discard(token)
                left = deadline - owner.env.clock.mono()
                self._handle = owner.in_task(path, request, left, metadata, self.end)
                return
            self.end(outcome)

        self._handle = owner.inner.start_unary(
            path, request, outcome_of_first, timeout=timeout, metadata=token.metadata + metadata
        )

    def end(self, outcome: bytes | RpcError) -> None:
        if not self._over:
            self._over = True
            self._done(outcome)

    def cancel(self) -> None:
        self._over = True
        if self._handle is not None:
            self._handle.cancel()


class _Stream:
    """A stream, and the token it was opened with."""

    def __init__(self, inner: MessageStream, tokens: TokenSource, token: Token) -> None:
        self._inner = inner
        self._tokens = tokens
        self._token = token
        self.endpoint = inner.endpoint
        self.send = inner.send
        self.half_close = inner.half_close
        self.cancel = inner.cancel

    async def receive(self) -> bytes | None:
        try:
            return await self._inner.receive()
        except RpcError as error:
            if not is_stale(error, self._token):
                raise
            self._tokens.discard(self._token)
            text = f"the token of the stream has ended: {error.message}"
            raise RpcError(StatusCode.UNAVAILABLE, text) from error

    def distrust(self) -> None:
        self._tokens.discard(self._token)


class AuthenticatedTransport:
    """See :class:`coord.transport.Transport`. Adds the token of a user who logs in with a password."""

    def __init__(self, inner: Transport, env: Env, credentials: Credentials) -> None:
        self.inner = inner
        self.env = env
        self._supervisor = Supervisor(self._broken)
        self.tokens: TokenSource = TokenSource(inner, env, self._supervisor, credentials)

    @property
    def closed(self) -> bool:
        """See :class:`coord.transport.Transport`."""
        return self.inner.closed

    @property
    def endpoints(self) -> tuple[str, ...]:
        """See :class:`coord.transport.Transport`."""
        return self.inner.endpoints

    @property
    def current(self) -> Address | None:
        """See :class:`coord.transport.Transport`."""
        return self.inner.current

    async def unary(
        self,
        path: str,
        request: bytes,
        *,
        timeout: float,
        metadata: Metadata = (),
        avoid: str | None = None,
    ) -> bytes:
        """See :class:`coord.transport.Transport`."""
        clock = self.env.clock
        deadline = clock.mono() + timeout
        renewals = 0
        while True:
            token = self.tokens.current or await self.tokens.renew(deadline)
            left = max(0.001, deadline - clock.mono())
            try:
                answer = await self.inner.unary(
                    path, request, timeout=left, metadata=token.metadata + metadata, avoid=avoid
                )
            except RpcError as error:
                if renewals == _RENEWALS or not is_stale(error, token):
                    raise
                renewals += 1
                self.tokens.discard(token)
            else:
                token.worked = True
                return answer

    def start_unary(
        self,
        path: str,
        request: bytes,
        done: Callable[[bytes | RpcError], None],
        *,
        timeout: float,
        metadata: Metadata = (),
    ) -> Cancellable:
        """See :class:`coord.transport.Transport`."""
        call = _Call(self, done)
        call.begin(path, request, timeout, metadata)
        return call

    def in_task(
        self,
        path: str,
        request: bytes,
        timeout: float,
        metadata: Metadata,
        end: Callable[[bytes | RpcError], None],
    ) -> Cancellable | None:
        """Run :meth:`unary` in a task, for a call that needs a login first."""
        deadline = self.env.clock.mono() + timeout

        async def run() -> None:
            sent = False
            try:
                await self.tokens.obtain(deadline)
                sent = True
                left = deadline - self.env.clock.mono()
                end(await self.unary(path, request, timeout=left, metadata=metadata))
            except RpcError as error:
                end(error)
            except asyncio.CancelledError:
                # By the caller, who is told nothing any more, or by the end of the client.
                end(RpcError(StatusCode.CANCELLED, "the client is closed", sent=sent))
                raise

        try:
            return self._supervisor.spawn(run(), name=path)
        except RuntimeError:
            end(RpcError(StatusCode.CANCELLED, "the client is closed", sent=False))
            return None

    async def open_stream(
        self, path: str, *, timeout: float, metadata: Metadata = (), avoid: str | None = None
    ) -> MessageStream:
        """See :class:`coord.transport.Transport`."""
        deadline = self.env.clock.mono() + timeout
        token = await self._young_token(deadline)
        left = max(0.001, deadline - self.env.clock.mono())
        stream = await self.inner.open_stream(
            path, timeout=left, metadata=token.metadata + metadata, avoid=avoid
        )
        return _Stream(stream, self.tokens, token)

    async def _young_token(self, deadline: float) -> Token:
        tokens, now = self.tokens, self.env.clock.mono()
        current = tokens.current
        if current is None:
            return await tokens.renew(deadline)
        if not current.metadata or now - current.obtained_at < _STREAM_TOKEN_AGE_S:
            return current
        try:
            return await tokens.renew(now + (deadline - now) / 2)
        except RpcError as error:
            if error.code is not StatusCode.UNAVAILABLE:
                raise
            # It may well be good still, and streams are most needed when logins fail.
            return current

    def suspect(self, endpoint: str | None = None) -> None:
        """See :class:`coord.transport.Transport`."""
        self.inner.suspect(endpoint)

    def over(self, inner: Transport) -> AuthenticatedTransport:
        """Return the same user on another carrier, with the same token."""
        other = copy(self)
        other.inner = inner
        other._supervisor = Supervisor(self._broken)  # noqa: SLF001 - of the same class
        return other

    async def close(self) -> None:
        """See :class:`coord.transport.Transport`."""
        await self.inner.close()
        await self._supervisor.close()

    def _broken(self, name: str, error: BaseException) -> None:
        """Report our own mistakes where applications listen; callers still have their deadlines."""
        asyncio.get_running_loop().call_exception_handler(
            {"message": f"coord: transport task {name!r} failed", "exception": error}
        )
