"""The ways from a client to its store: its carrier with who the client is in front of it, and ways to one endpoint alone."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from coord.errors import InvalidArgument
from coord.target import Endpoint, Target, TargetKind, parse_target
from coord.transport.taps import tapped

if TYPE_CHECKING:
    from coord.core import Options
    from coord.credentials import Credentials
    from coord.runtime import Env
    from coord.transport import ClientTransport, Transport
    from coord.transport.authenticated import AuthenticatedTransport
    from coord.transport.fixed_token import FixedTokenTransport


class Ways:
    """``carrier`` knows the endpoints and their health; calls go through ``transport``, which stands before it."""

    def __init__(self, options: Options, target: Target, env: Env) -> None:
        self.target = target
        self._options = options
        self._env = env
        self.carrier: ClientTransport = _carrier(options, target, env)
        self.transport: Transport = tapped(options.name, self.carrier)
        self._identity: AuthenticatedTransport | FixedTokenTransport | None = None
        if options.credentials is not None:
            identified = _identified(self.transport, options.credentials, env)
            self.transport = identified
            self._identity = identified

    def identity(self) -> str:
        """Say who the client is to its store, for people; no secrets."""
        credentials = self._options.credentials
        if credentials is None:
            return "no credentials"
        if credentials.token is not None:
            return "a token that was given"
        return f"user {credentials.user!r}"

    def to(self, endpoint: str) -> Transport:
        """Return a transport to one endpoint, over a connection of its own; its owner closes it.

        Raises :class:`InvalidArgument` for what is no endpoint, or not fit for this client.
        """
        chosen = replace(self.target, endpoints=(self._endpoint(endpoint),))
        made = tapped(self._options.name, _carrier(self._options, chosen, self._env))
        return made if self._identity is None else self._identity.over(made)

    def _endpoint(self, text: str) -> Endpoint:
        """Return the endpoint that ``text`` names: one of the client's, or another one of the same kind.

        Raises :class:`InvalidArgument`.
        """
        for known in self.target.endpoints:
            if known.text == text:
                return known
        tls = self.target.tls
        parsed = parse_target([text], tls=tls)
        if parsed.kind is not TargetKind.ENDPOINTS or len(parsed.endpoints) != 1:
            raise InvalidArgument(f"endpoint {text!r}: give one host:port or URL")
        found = parsed.endpoints[0]
        if found.tls != (tls is not None):
            kind = "uses TLS" if tls is not None else "does not use TLS"
            raise InvalidArgument(f"endpoint {text!r} does not fit: this client {kind}")
        return found


def _carrier(options: Options, target: Target, env: Env) -> ClientTransport:
    carrier, limits = options.carrier, options.carrier_limits
    match carrier:
        case "native":
            from coord.transport.native import NativeTransport

            return NativeTransport(target.endpoints, env, tls=target.tls, limits=limits)
        case "grpcio":
            from coord.transport.grpcio import GrpcioTransport  # 116 ms that only its users pay

            return GrpcioTransport(target.endpoints, env, tls=target.tls, limits=limits)
        case _:  # pyright: ignore[reportUnnecessaryComparison] - callers without a type checker
            raise InvalidArgument(f"transport must be 'native' or 'grpcio', not {carrier!r}")  # pyright: ignore[reportUnreachable]


def _identified(
    transport: Transport, credentials: Credentials, env: Env
) -> AuthenticatedTransport | FixedTokenTransport:
    """Put who the client is around ``transport``. Loaded, and in the way, for those with credentials only."""
    if credentials.token is not None:
        from coord.transport import fixed_token

        return fixed_token.FixedTokenTransport(transport, credentials.token)
    from coord.transport import authenticated

    return authenticated.AuthenticatedTransport(transport, env, credentials)
