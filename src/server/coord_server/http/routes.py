"""From a request to its handler: path, method, Host and CORS rules that all endpoints share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeAlias, final
from urllib.parse import parse_qs, urlsplit

from coord.rpc.http1_messages import Http1Response

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from coord.rpc.http1_messages import Http1Request

Respond: TypeAlias = Callable[[Http1Response], None]

_PLAIN: Final = (
    ("Content-Type", "text/plain; charset=utf-8"),
    ("X-Content-Type-Options", "nosniff"),
)


@final
class Request:
    """A request with its target taken apart; ``query`` keeps empty values and repetitions."""

    __slots__ = ("method", "path", "query")

    def __init__(self, raw: Http1Request) -> None:
        parts = urlsplit(raw.target)
        self.method = raw.method
        self.path = parts.path or "/"
        self.query: dict[str, list[str]] = parse_qs(parts.query, keep_blank_values=True)


Handler: TypeAlias = Callable[[Request, Respond], None]


def plain(status: int, text: str, *more: tuple[str, str]) -> Http1Response:
    """Return a text answer as Go's ``http.Error`` makes it, except for the newline."""
    return Http1Response(status, (*_PLAIN, *more), text.encode())


def json_answer(text: str) -> Http1Response:
    """Return a JSON answer."""
    return Http1Response(200, (("Content-Type", "application/json"),), text.encode())


def only_get(handler: Handler) -> Handler:
    """Return ``handler`` behind a refusal of every method but GET (405, as etcd words it)."""

    def guarded(request: Request, respond: Respond) -> None:
        if request.method != "GET":
            respond(plain(405, "Method Not Allowed\n", ("Allow", "GET")))
            return
        handler(request, respond)

    return guarded


class Router:
    """The handler of all plain HTTP requests of a listener.

    ``cors`` lists the origins that browsers may call from, ``hosts`` the Host values that are served;
    ``*`` in a list allows all (etcd ops: "Listener layout").
    """

    def __init__(
        self,
        routes: Mapping[str, Handler],
        *,
        cors: Sequence[str] = ("*",),
        hosts: Sequence[str] = ("*",),
    ) -> None:
        self._routes = dict(routes)
        self._cors = frozenset(cors)
        self._hosts = frozenset(hosts)

    def __call__(self, raw: Http1Request, respond: Respond) -> None:
        """Answer ``raw`` through ``respond``, now or later."""
        if not self._serves_host(raw.header("host")):
            respond(plain(421, "the Host header is not in --host-whitelist of this server\n"))
            return
        headers = self._cors_headers(raw.header("origin"))

        def answer(response: Http1Response) -> None:
            respond(
                Http1Response(response.status, response.headers + headers, response.body)
                if headers
                else response
            )

        if raw.method == "OPTIONS":
            answer(Http1Response(200))
            return
        request = Request(raw)
        handler = self._routes.get(request.path)
        if handler is None:
            answer(plain(404, "404 page not found\n"))
            return
        handler(request, answer)

    def _serves_host(self, host: str | None) -> bool:
        if "*" in self._hosts or host is None:
            return True
        name = urlsplit(f"//{host}").hostname or ""
        return name in self._hosts

    def _cors_headers(self, origin: str | None) -> tuple[tuple[str, str], ...]:
        if "*" in self._cors:
            allowed = "*"
        elif origin is not None and origin in self._cors:
            allowed = origin
        else:
            return ()
        return (
            ("Access-Control-Allow-Methods", "POST, GET, OPTIONS, PUT, DELETE"),
            ("Access-Control-Allow-Origin", allowed),
            ("Access-Control-Allow-Headers", "accept, content-type, authorization"),
        )
