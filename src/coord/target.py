"""Where a store is: everything that ``connect()`` takes, parsed into one value.

    "host:2379"  "http://host:2379"  "https://host:2379"     one endpoint, or several with commas or in a sequence
    "unix:///run/etcd.sock"  "unix:etcd.sock"  "unixs:..."   a unix socket, the second kind with TLS
    "etcd://h1,h2:2379?timeout=5"
    "etcd://h1,h2/team-a/"                                   only the keys that start with team-a/, see connect()
    "etcd+tls://h1,h2?ca=ca.pem&cert=me.pem&key=me.key"      one URL for a whole cluster and its options
    "etcd://user:password@h1,h2"                             with a user; what is special in a URL is written as %XX
    "local:"  "local:/path"                                  the server of this user and machine, started on first use
    "memory:"                                                a private server inside this process

As in etcd's clients, TLS is a property of the whole client: plain and encrypted endpoints do not mix.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote, unquote_to_bytes

from coord.credentials import Credentials, parse_userinfo
from coord.errors import InvalidArgument
from coord.runtime import Address, TcpAddress, UnixAddress

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from coord.runtime import Net

DEFAULT_PORT = 2379  # etcd's registered client port
ENDPOINTS_VARIABLE = "COORD_ENDPOINTS"
_FORMS = (
    "allowed are host:port, http://host:port, https://host:port, unix:///path, unixs:///path,"
    " etcd://host,host?option=value, etcd+tls://host,host?option=value, local:, local:/path and memory:"
)
_PATH = re.compile("(?:[^%]|%[0-9A-Fa-f]{2})*", re.DOTALL)
_NO_USER_HERE = "user and password do not belong in an endpoint: use user= and password=, or etcd://user:password@host"
_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})


class TargetKind(Enum):
    """What stands behind a target."""

    ENDPOINTS = "endpoints"
    LOCAL = "local"
    MEMORY = "memory"


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsConfig:
    """How to trust servers and show who we are. All files are PEM; ``key`` never appears in ``repr``.

    ``ca`` None: the system's authorities.
    ``verify=False`` trusts any server: only for experiments.
    ``server_name`` is the name that certificates must carry, when it is not the endpoint's host.
    """

    ca: str | None = None
    cert: str | None = None
    key: str | None = field(default=None, repr=False)
    verify: bool = True
    server_name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One address of a store, and how it was written, for messages."""

    address: Address
    tls: bool
    text: str

    @property
    def authority(self) -> str:
        """The ``:authority`` of requests: host and port, or the path of the socket."""
        address = self.address
        return address.path if isinstance(address, UnixAddress) else str(address)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A parsed target: ``endpoints`` for kind ENDPOINTS, ``path`` (None: the default place) for LOCAL."""

    kind: TargetKind
    endpoints: tuple[Endpoint, ...] = ()
    tls: TlsConfig | None = None
    path: str | None = None
    request_timeout: float | None = None
    namespace: bytes = b""
    credentials: Credentials | None = None
    """What the URL said; ``connect()`` adds its arguments and the environment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A server that ``coord.embed.open_target(target, env)`` found or started, for LOCAL and MEMORY.

    ``net`` is what reaches ``endpoints``: the machine's network, or one inside the process.
    ``await close()`` gives up this client's hold on it; called once, after the last connection was closed.
    """

    endpoints: tuple[Endpoint, ...]
    net: Net
    close: Callable[[], Awaitable[None]]


def parse_target(
    given: str | Sequence[str] | None = None, *, tls: TlsConfig | None = None
) -> Target:
    """Parse what ``connect()`` was given; None means the variable ``COORD_ENDPOINTS``, else ``local:``.

    Raises :class:`InvalidArgument` that names the part at fault.
    """
    if given is None:
        given = os.environ.get(ENDPOINTS_VARIABLE, "").strip() or "local:"
    parts = _split(given)
    if len(parts) == 1:
        single = _parse_single(parts[0], tls)
        if single is not None:
            return single
    return _endpoints([_parse_endpoint(part) for part in parts], tls)


def _split(given: str | Sequence[str]) -> list[str]:
    if isinstance(given, str):
        scheme = given.partition(":")[0]
        # Paths and URLs may hold commas of their own.
        if scheme in {"etcd", "etcd+tls", "local", "memory"}:
            return [given.strip()]
        given = given.split(",")
        # Before anything is shown: a password may hold commas.
        if any("@" in part and not part.lstrip().startswith("unix") for part in given):
            raise InvalidArgument(_NO_USER_HERE)
    parts: list[str] = []
    for part in given:
        if not isinstance(part, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidArgument(f"endpoint must be str, not {type(part).__name__}; {_FORMS}")  # pyright: ignore[reportUnreachable]
        parts.append(part.strip())
    if not parts:
        raise InvalidArgument(f"no endpoint given; {_FORMS}")
    return parts


def _parse_single(text: str, tls: TlsConfig | None) -> Target | None:
    """Parse the forms that stand alone; None for an ordinary endpoint."""
    scheme, colon, rest = text.partition(":")
    if not colon:
        return None
    match scheme:
        case "memory":
            _no_tls(tls, text)
            if rest:
                raise InvalidArgument(f"memory: takes nothing behind the colon, not {rest!r}")
            return Target(kind=TargetKind.MEMORY)
        case "local":
            _no_tls(tls, text)
            if rest and not os.path.isabs(rest):
                raise InvalidArgument(f"local: takes an absolute path, not {rest!r}")
            return Target(kind=TargetKind.LOCAL, path=rest or None)
        case "etcd" | "etcd+tls":
            return _parse_url(scheme, rest, tls)
        case _:
            return None


def _no_tls(tls: TlsConfig | None, text: str) -> None:
    if tls is not None:
        raise InvalidArgument(f"{text.partition(':')[0]}: uses no TLS, so tls= must not be given")


def _endpoints(
    endpoints: list[Endpoint], tls: TlsConfig | None, request_timeout: float | None = None
) -> Target:
    if tls is not None:
        # A plain host:port follows the configuration; an explicit http:// stays what it says.
        endpoints = [
            Endpoint(address=e.address, tls=e.tls or not e.text.startswith("http:"), text=e.text)
            for e in endpoints
        ]
    if len({e.tls for e in endpoints}) > 1:
        plain = next(e.text for e in endpoints if not e.tls)
        secure = next(e.text for e in endpoints if e.tls)
        raise InvalidArgument(f"endpoints with and without TLS do not mix: {secure!r}, {plain!r}")
    unique = tuple({e.address: e for e in endpoints}.values())
    return Target(
        kind=TargetKind.ENDPOINTS,
        endpoints=unique,
        tls=(tls or TlsConfig()) if unique[0].tls else None,
        request_timeout=request_timeout,
    )


def _parse_endpoint(text: str) -> Endpoint:
    scheme, colon, rest = text.partition(":")
    if colon:
        match scheme:
            case "http" | "https":
                if not rest.startswith("//"):
                    raise InvalidArgument(f"endpoint {_shown(text)}: expected // after {scheme}:")
                authority, slash, path = rest[2:].partition("/")
                if slash and path:
                    raise InvalidArgument(f"endpoint {_shown(text)}: has a path; {_FORMS}")
                address = _parse_host(authority, text, port=DEFAULT_PORT)
                return Endpoint(address=address, tls=scheme == "https", text=text.rstrip("/"))
            case "unix" | "unixs":
                path = rest.removeprefix("//")
                if not path:
                    raise InvalidArgument(f"endpoint {text!r}: the path of the socket is missing")
                return Endpoint(address=UnixAddress(path), tls=scheme == "unixs", text=text)
            case "memory" | "local" | "etcd" | "etcd+tls":
                raise InvalidArgument(f"{scheme}: stands alone, not in a list of endpoints")
            case _:
                pass
    if "://" in text:
        raise InvalidArgument(f"endpoint {_shown(text)}: unknown scheme {scheme!r}; {_FORMS}")
    return Endpoint(address=_parse_host(text, text, port=None), tls=False, text=text)


def _shown(text: str) -> str:
    """``text`` for a message, without what may be a password."""
    return repr(text) if "@" not in text else repr("…@" + text.rpartition("@")[2])


def _parse_host(authority: str, text: str, *, port: int | None) -> TcpAddress:
    """Parse ``host:port``; ``port`` is the default, None if it must be given."""
    shown = _shown(text)
    if "@" in authority:
        raise InvalidArgument(f"endpoint {shown}: {_NO_USER_HERE}")
    if authority.startswith("["):
        host, bracket, rest = authority[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise InvalidArgument(f"endpoint {shown}: IPv6 addresses are written [address]:port")
        colon, digits = rest[:1], rest[1:]
    else:
        host, colon, digits = authority.partition(":")
        if ":" in digits:
            raise InvalidArgument(f"endpoint {shown}: IPv6 addresses are written [address]:port")
    if not host or any(c.isspace() or c in "/?#" for c in host):
        raise InvalidArgument(f"endpoint {shown}: the host is missing or malformed; {_FORMS}")
    if not colon and port is not None:
        return TcpAddress(host, port)
    # isdigit alone takes digits of other scripts, which int() would read too.
    if not (digits.isascii() and digits.isdigit() and 0 < int(digits) <= 65535):  # noqa: PLR2004 - TCP's highest port
        raise InvalidArgument(
            f"endpoint {shown}: port {digits!r} is not a number from 1 to 65535"
            if colon
            else f"endpoint {shown}: the port is missing; {_FORMS}"
        )
    return TcpAddress(host, int(digits))


def _parse_url(scheme: str, rest: str, tls: TlsConfig | None) -> Target:
    """Parse ``//user:password@h1,h2/namespace?option=value``."""
    user, rest = _split_user(scheme, rest)
    url = f"{scheme}:{rest}"
    if not rest.startswith("//"):
        raise InvalidArgument(f"target {_shown(url)}: expected // after {scheme}:")
    before, _, query = rest[2:].partition("?")
    authority, _, path = before.partition("/")
    namespace = _parse_namespace(path)
    secure = scheme == "etcd+tls"
    options = _parse_options(query, secure=secure)
    timeout = options.pop("timeout", None)
    if secure:
        if tls is not None and options:
            raise InvalidArgument("TLS options stand in the URL and in tls=: give them once")
        verify = _parse_flag("verify", options.pop("verify", "true"))
        tls = tls or TlsConfig(verify=verify, **options)
    elif tls is not None:
        raise InvalidArgument("tls= is given, but the URL says etcd://: write etcd+tls://")
    hosts = [_parse_host(h.strip(), h.strip(), port=DEFAULT_PORT) for h in authority.split(",")]
    endpoints = [Endpoint(address=h, tls=secure, text=str(h)) for h in hosts]
    target = _endpoints(endpoints, tls, None if timeout is None else _parse_seconds(timeout))
    return replace(target, namespace=namespace, credentials=user)


def _parse_namespace(path: str) -> bytes:
    """Decode what stands behind the hosts: the namespace as it is, with ``%2F`` and the like for any byte."""
    if not _PATH.fullmatch(path):
        raise InvalidArgument(f"namespace {path!r}: % must be followed by two hexadecimal digits")
    return unquote_to_bytes(path)


def _split_user(scheme: str, rest: str) -> tuple[Credentials | None, str]:
    """Take ``user:password@`` out of a URL, so that nothing behind this can show it."""
    before, at, behind = rest.rpartition("@")
    if not at:
        return None, rest
    # Any other place is a password with a character that ends the host part, and would be shown in some message.
    if not before.startswith("//") or any(c in before[2:] for c in "/?#@"):
        raise InvalidArgument(
            f"target {scheme}: one @ may stand behind the user; write %40 for others,"
            " and %2F, %3F and %23 for / ? and # in a password"
        )
    return parse_userinfo(before[2:]), "//" + behind


_TLS_OPTIONS = ("ca", "cert", "key", "server_name", "verify")


def _parse_options(query: str, *, secure: bool) -> dict[str, str]:
    options: dict[str, str] = {}
    allowed = ("timeout", *_TLS_OPTIONS) if secure else ("timeout",)
    for name, value in parse_qsl(query, keep_blank_values=True):
        if not secure and name in _TLS_OPTIONS:
            raise InvalidArgument(f"option {name!r} needs etcd+tls:// instead of etcd://")
        if name not in allowed:
            raise InvalidArgument(f"unknown option {name!r}; allowed are {', '.join(allowed)}")
        if name in options:
            raise InvalidArgument(f"option {name!r} is given twice")
        if not value:
            raise InvalidArgument(f"option {name!r} is empty")
        options[name] = value
    return options


def _parse_flag(name: str, value: str) -> bool:
    if value.lower() in _TRUE:
        return True
    if value.lower() in _FALSE:
        return False
    raise InvalidArgument(f"option {name!r} is true or false, not {value!r}")


def _parse_seconds(value: str) -> float:
    try:
        seconds = float(unquote(value))
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < float("inf"):
        raise InvalidArgument(f"option 'timeout' is a positive number of seconds, not {value!r}")
    return seconds
