"""``/health``, ``/livez`` and ``/readyz``: may this member be sent traffic, and is it alive.

Paths, queries, bodies and texts are etcd's (etcd ops: "/health", "/livez, /readyz"); ``health`` is a
string there, not a boolean.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeAlias

from coord.rpc.http1_messages import Http1Response
from coord_server.http.routes import only_get, plain

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from coord_server.errors import ErrorSpec
    from coord_server.http.routes import Handler, Request, Respond
    from coord_server.log import Log
    from coord_server.metrics import Counter, Metrics


class Node(Protocol):
    """What the probes ask of a member."""

    @property
    def leader_id(self) -> int:
        """The leader that this member follows or is; 0 while it knows none."""
        ...

    def read_ready(self) -> bool:
        """Tell whether a linearizable read could be served right now."""
        ...

    def when_readable(self, run: Callable[[], None], fail: Callable[[ErrorSpec], None]) -> None:
        """Call ``run`` once a linearizable read may be served, or ``fail``."""
        ...


Outcome: TypeAlias = Callable[[str | None], None]
"""Takes None for a check that passed, else the reason why not."""
Check: TypeAlias = Callable[[Outcome], None]


class Health:
    """The three probes of one member. ``alarms`` names the active alarms of the whole cluster."""

    def __init__(
        self,
        node: Node,
        *,
        alarms: Callable[[], Iterable[str]],
        is_learner: Callable[[], bool],
        timeout_s: float,
        metrics: Metrics,
        log: Log,
    ) -> None:
        self._node = node
        self._alarms = alarms
        self._is_learner = is_learner
        self._timeout_s = timeout_s
        self._log = log
        self._metrics = metrics
        self._last: dict[tuple[str, str], float] = {}
        self._success = metrics.counter(
            "etcd_server_health_success", "The total number of successful health checks"
        )
        self._failures = metrics.counter(
            "etcd_server_health_failures", "The total number of failed health checks"
        )
        metrics.samples(
            "etcd_server_healthcheck",
            "gauge",
            "The result of each kind of healthcheck.",
            lambda: [
                ((("type", kind), ("name", name)), value)
                for (kind, name), value in self._last.items()
            ],
        )

    def routes(self) -> Mapping[str, Handler]:
        """Return every path of the probes with its handler."""
        live: dict[str, Check] = {"serializable_read": _passes}
        ready: dict[str, Check] = {
            "data_corruption": self._corruption,
            "serializable_read": _passes,
            "linearizable_read": self._linearizable,
            "non_learner": self._non_learner,
        }
        routes: dict[str, Handler] = {"/health": only_get(self._health)}
        for kind, checks in (("livez", live), ("readyz", ready)):
            routes[f"/{kind}"] = self._probe(kind, checks, root=True)
            for name, check in checks.items():
                routes[f"/{kind}/{name}"] = self._probe(kind, {name: check}, root=False)
        return routes

    # /health

    def _health(self, request: Request, respond: Respond) -> None:
        excluded = set(request.query.get("exclude", ()))
        for alarm in self._alarms():
            if alarm not in excluded:
                self._unhealthy(f"ALARM {alarm}", respond)
                return
        if "true" in request.query.get("serializable", ())[:1]:
            self._healthy(respond)
            return
        if not self._node.leader_id:
            self._unhealthy("RAFT NO LEADER", respond)
            return

        def outcome(reason: str | None) -> None:
            if reason is None:
                self._healthy(respond)
            else:
                self._unhealthy(f"RANGE ERROR:{reason}", respond)

        self._linearizable(outcome)

    def _healthy(self, respond: Respond) -> None:
        self._success.value += 1
        body = b'{"health":"true","reason":""}'
        respond(Http1Response(200, (("Content-Type", "text/plain; charset=utf-8"),), body))

    def _unhealthy(self, reason: str, respond: Respond) -> None:
        self._failures.value += 1
        self._log.warn("/health error", reason=reason, status_code=503)
        body = json.dumps({"health": "false", "reason": reason}, separators=(",", ":"))
        respond(plain(503, body + "\n"))

    # /livez, /readyz

    def _probe(self, kind: str, checks: Mapping[str, Check], *, root: bool) -> Handler:
        counters = {
            (name, status): self._metrics.counter(
                "etcd_server_healthchecks_total",
                "The total number of each kind of healthcheck.",
                type=kind,
                name=name,
                status=status,
            )
            for name in checks
            for status in ("success", "error")
        }

        def handle(request: Request, respond: Respond) -> None:
            excluded = request.query.get("exclude", ()) if root else ()
            unknown = sorted(name for name in excluded if name and name not in checks)
            if unknown:
                self._log.warn(
                    "some health checks cannot be excluded", missing_health_checks=unknown
                )
            chosen = [(name, check) for name, check in checks.items() if name not in excluded]
            run = _Run(chosen, lambda found: self._report(kind, found, counters, request, respond))
            run.advance()

        return only_get(handle)

    def _report(
        self,
        kind: str,
        found: Mapping[str, str | None],
        counters: Mapping[tuple[str, str], Counter],
        request: Request,
        respond: Respond,
    ) -> None:
        lines: list[str] = []
        for name, reason in found.items():
            passed = reason is None
            counters[name, "success" if passed else "error"].value += 1
            self._last[kind, name] = float(passed)
            lines.append(f"[+]{name} ok\n" if passed else f"[-]{name} failed: {reason}\n")
        if all(reason is None for reason in found.values()):
            respond(plain(200, ("".join(lines) if "verbose" in request.query else "") + "ok\n"))
            return
        self._log.warn(f"/{kind} error", failed=[n for n, reason in found.items() if reason])
        respond(plain(503, "".join(lines) + "\n"))

    def _corruption(self, outcome: Outcome) -> None:
        outcome("alarm activated: CORRUPT" if "CORRUPT" in self._alarms() else None)

    def _non_learner(self, outcome: Outcome) -> None:
        outcome("not supported for learner" if self._is_learner() else None)

    def _linearizable(self, outcome: Outcome) -> None:
        if self._node.read_ready():
            outcome(None)
            return
        done = False

        def once(reason: str | None) -> None:
            nonlocal done
            if not done:
                done = True
                timer.cancel()
                outcome(reason)

        loop = asyncio.get_running_loop()
        timer = loop.call_later(self._timeout_s, once, "context deadline exceeded")
        self._node.when_readable(lambda: once(None), lambda spec: once(spec.message))


class _Run:
    """Asks one check after the other, and reports when the last has answered."""

    def __init__(
        self,
        checks: list[tuple[str, Check]],
        report: Callable[[Mapping[str, str | None]], None],
    ) -> None:
        self._checks = checks
        self._report = report
        self._found: dict[str, str | None] = {}

    def advance(self) -> None:
        """Ask the next check, or report."""
        position = len(self._found)
        if position == len(self._checks):
            self._report(self._found)
            return
        name, check = self._checks[position]

        def outcome(reason: str | None) -> None:
            self._found[name] = reason
            self.advance()

        check(outcome)


def _passes(outcome: Outcome) -> None:
    """Pass: whoever can answer at all has read its own state."""
    outcome(None)
