"""The token that proves who a client is: obtained when it is needed, once for all who need it (etcd API: Authenticate).

A token is a secret with an end that only the server knows: simple ones are forgotten with a restart, unused for a
while, or when the user's password or roles change; JWTs carry their end, and every change of users or roles makes
them old.
So nobody counts down here: a token is used until the server turns it down, and whoever meets that first fetches
another, while the others wait for the same login.

A login that was refused is not repeated for a while that grows, so that many callers with a wrong password do not
keep the servers busy with hashing it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError

from coord.rpc.status import RpcError, StatusCode
from coord.wire import methods, rpc_pb2

if TYPE_CHECKING:
    from coord.credentials import Credentials
    from coord.rpc.metadata import Metadata
    from coord.runtime import Env, Supervisor
    from coord.transport.base import Transport

# A login takes a round of the cluster and tens of ms of hashing, much more when all clients of a restarted server
# come at once.
_LOGIN_TIMEOUT_S = 10.0
# A member that has lost its leader cannot log anybody in, and says so at once with this.
_LOGIN_METADATA = (("hasleader", "true"),)
# How long a refused login is not repeated, and a token that was turned down at its first use not replaced.
_PAUSE_FIRST_S = 0.5
_PAUSE_MAX_S = 8.0
_FAILURE_PAUSE_S = 0.1  # the same for a login without an answer, at most

_NOT_ENABLED = "etcdserver: authentication is not enabled"
# A user without a password; these words come without a code of their own.
_NO_SUCH_LOGIN = "auth: authentication failed"
# The second of each pair is what etcd 3.4 says in its Maintenance service.
_STALE = frozenset(
    {
        "etcdserver: invalid auth token",
        "auth: invalid auth token",
        "etcdserver: revision of auth store is old",
        "auth: revision in header is old",
    }
)
_NOBODY = frozenset({"etcdserver: user name is empty", "auth: user name is empty"})
_REFUSALS = frozenset(
    {StatusCode.INVALID_ARGUMENT, StatusCode.PERMISSION_DENIED, StatusCode.UNAUTHENTICATED}
)


class Token:
    """What calls carry; ``metadata`` is empty while the server wants none. Its value is in no ``repr``."""

    __slots__ = ("metadata", "obtained_at", "worked")

    def __init__(self, value: str, obtained_at: float) -> None:
        self.metadata: Metadata = (("token", value),) if value else ()
        self.obtained_at: float = obtained_at
        self.worked: bool = False
        """Whether a call with it has succeeded."""


def is_stale(error: RpcError, token: Token) -> bool:
    """Say whether a call with ``token`` failed because it needs another one; the call had no effect then."""
    message = error.message
    # With a token, the text is about a name in the request.
    return message in _STALE or (message in _NOBODY and not token.metadata)


class TokenSource:
    """The present token of a user, and the one login that may be under way. Lives on the runtime's loop."""

    def __init__(
        self, transport: Transport, env: Env, supervisor: Supervisor, credentials: Credentials
    ) -> None:
        self._transport = transport
        self._env = env
        self._supervisor = supervisor
        self._credentials = credentials
        self._login: asyncio.Task[Token | RpcError] | None = None
        self._refusal: RpcError | None = None
        self._failure: RpcError | None = None
        """Why the last login failed; None after a success."""
        self._pause_until = 0.0
        self._setbacks = 0
        self.current: Token | None = None
        """The token to use, None when there must be a login first."""

    def discard(self, token: Token) -> None:
        """Use ``token`` no more: the server has turned it down. Others may have replaced it already."""
        if self.current is not token:
            return
        self.current = None
        if token.worked:
            self._setbacks = 0
        elif token.metadata:  # a server that turns down what it has just given out
            self._pause()

    async def obtain(self, deadline: float) -> Token:
        """Return the present token, after a login if there is none."""
        current = self.current
        return await self.renew(deadline) if current is None else current

    async def renew(self, deadline: float) -> Token:
        """Log in, or join the login that is under way; ``deadline`` is the caller's, in monotonic seconds.

        Raises ``RpcError``: UNAUTHENTICATED for a refusal, UNAVAILABLE when there is no answer; never ``sent``, as the
        request that needs the token has not left.
        """
        now = self._env.clock.mono()
        if self._refusal is not None and now < self._pause_until:
            raise _again(self._refusal)
        task = self._login
        if task is None:
            if self._transport.closed:
                raise RpcError(StatusCode.CANCELLED, "the client is closed", sent=False)
            task = self._login = self._supervisor.spawn(self._log_in(), name="login")
            task.add_done_callback(self._logged_in)
        await asyncio.wait({task}, timeout=max(0.0, deadline - now))
        if not task.done():
            text = f"no answer to the login in time ({', '.join(self._transport.endpoints)})"
            if self._failure is not None:
                text += f"; the one before failed: {self._failure.message}"
            raise RpcError(StatusCode.UNAVAILABLE, text, sent=False) from self._failure
        if task.cancelled():
            raise RpcError(StatusCode.CANCELLED, "the client is closed", sent=False)
        outcome = task.result()
        if isinstance(outcome, RpcError):
            raise _again(outcome)
        return outcome

    def _logged_in(self, task: asyncio.Task[Token | RpcError]) -> None:
        self._login = None
        if task.cancelled() or task.exception() is not None:
            return
        outcome = task.result()
        if isinstance(outcome, Token):
            self.current = outcome
            self._refusal = self._failure = None
        elif outcome.code is StatusCode.UNAUTHENTICATED:
            self.current = None
            self._refusal = self._failure = outcome
            self._pause()
        else:
            # Each of many callers would begin another as soon as this one has failed.
            self._refusal, self._failure = None, outcome
            self._pause_until = self._env.clock.mono() + self._env.rand.uniform(0, _FAILURE_PAUSE_S)

    def _pause(self) -> None:
        longest = min(_PAUSE_MAX_S, _PAUSE_FIRST_S * float(2 ** min(self._setbacks, 10)))
        self._setbacks += 1
        self._pause_until = self._env.clock.mono() + self._env.rand.uniform(longest / 2, longest)

    async def _log_in(self) -> Token | RpcError:
        """Log in once. Failures are returned: each of those who wait raises an exception of its own."""
        await asyncio.sleep(max(0.0, self._pause_until - self._env.clock.mono()))
        try:
            request = await self._request()
        except Exception as error:  # noqa: BLE001 - whatever the application's function raises
            failure = RpcError(
                StatusCode.UNAVAILABLE, f"no password: {type(error).__name__}", sent=False
            )
            failure.__cause__ = error
            return failure
        try:
            answer = await self._transport.unary(
                methods.AUTH_AUTHENTICATE.path,
                request,
                timeout=_LOGIN_TIMEOUT_S,
                metadata=_LOGIN_METADATA,
            )
            token = rpc_pb2.AuthenticateResponse.FromString(answer).token
        except RpcError as error:
            return self._failed(error)
        except DecodeError:
            return RpcError(StatusCode.UNAVAILABLE, "the answer to the login is none", sent=False)
        return Token(token, self._env.clock.mono())

    async def _request(self) -> bytes:
        given = self._credentials.password
        # Without a limit of its own: a second call beside one that hangs would block a second thread.
        password = await self._env.offload.run(given) if callable(given) else given
        if not isinstance(password, str) or not password:
            raise TypeError("the function for the password returned no text")
        return rpc_pb2.AuthenticateRequest(
            name=self._credentials.user, password=password
        ).SerializeToString()

    def _failed(self, error: RpcError) -> Token | RpcError:
        code, message = error.code, error.message
        if message == _NOT_ENABLED:
            # Whoever is told "user name is empty" later comes back here.
            return Token("", self._env.clock.mono())
        if code is StatusCode.UNIMPLEMENTED:
            text = f"a user is given, but this server knows no users: {message}"
            return RpcError(StatusCode.UNAUTHENTICATED, text, sent=False)
        if code in _REFUSALS or message.startswith(_NO_SUCH_LOGIN):
            return RpcError(StatusCode.UNAUTHENTICATED, message, sent=False)
        if self._transport.closed:
            return RpcError(StatusCode.CANCELLED, "the client is closed", sent=False)
        if error.sent:
            self._transport.suspect()
        failure = RpcError(StatusCode.UNAVAILABLE, f"cannot log in: {message}", sent=False)
        failure.__cause__ = error
        return failure


def _again(error: RpcError) -> RpcError:
    """Return an exception of the caller's own, since raising one object in several tasks mixes their tracebacks."""
    failure = RpcError(error.code, error.message, sent=False)
    failure.__cause__ = error.__cause__
    return failure
