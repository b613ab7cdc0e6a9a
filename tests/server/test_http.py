"""The plain HTTP endpoints, asked without a socket."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from coord.rpc.http1_messages import Http1Request, Http1Response
from coord_server import errors
from coord_server.errors import ErrorSpec
from coord_server.http import Health, Router, metrics_route, version_route
from coord_server.log import silent
from coord_server.metrics import Metrics


class FixedClock:
    def wall(self) -> float:
        return 0.0


class FakeNode:
    """A member whose readiness a test turns by hand."""

    def __init__(self) -> None:
        self.leader_id = 7
        self.ready = True
        self.waiting: list[tuple[Callable[[], None], Callable[[ErrorSpec], None]]] = []

    def read_ready(self) -> bool:
        return self.ready

    def when_readable(self, run: Callable[[], None], fail: Callable[[ErrorSpec], None]) -> None:
        self.waiting.append((run, fail))


class Site:
    """A router over a fake member; ``get`` returns the answers given so far."""

    def __init__(
        self,
        *,
        timeout_s: float = 5.0,
        cors: tuple[str, ...] = ("*",),
        hosts: tuple[str, ...] = ("*",),
    ) -> None:
        self.node = FakeNode()
        self.alarms: list[str] = []
        self.is_learner = False
        self.metrics = Metrics()
        health = Health(
            self.node,
            is_learner=lambda: self.is_learner,
            alarms=lambda: self.alarms,
            timeout_s=timeout_s,
            metrics=self.metrics,
            log=silent(FixedClock()),
        )
        routes = {
            **health.routes(),
            "/version": version_route("3.5.21", "3.5.0"),
            "/metrics": metrics_route(self.metrics),
        }
        self.router = Router(routes, cors=cors, hosts=hosts)

    def ask(self, target: str, method: str = "GET", **headers: str) -> list[Http1Response]:
        answers: list[Http1Response] = []
        self.router(Http1Request(method, target, tuple(headers.items())), answers.append)
        return answers

    def get(self, target: str) -> tuple[int, str]:
        (answer,) = self.ask(target)
        return answer.status, answer.body.decode()


def header(response: Http1Response, name: str) -> str | None:
    return dict(response.headers).get(name)


def test_version() -> None:
    assert Site().get("/version") == (200, '{"etcdserver":"3.5.21","etcdcluster":"3.5.0"}')


def test_unknown_paths_and_wrong_methods() -> None:
    site = Site()
    assert site.get("/nothing") == (404, "404 page not found\n")
    for path in ("/version", "/health", "/livez", "/readyz/linearizable_read"):
        (answer,) = site.ask(path, "POST")
        assert (answer.status, header(answer, "Allow")) == (405, "GET")
        assert answer.body == b"Method Not Allowed\n"
    assert site.ask("/metrics", "POST")[0].status == 200


def test_health() -> None:
    site = Site()
    healthy = (200, '{"health":"true","reason":""}')
    assert site.get("/health") == healthy
    site.alarms = ["NOSPACE"]
    assert site.get("/health") == (503, '{"health":"false","reason":"ALARM NOSPACE"}\n')
    assert site.get("/health?exclude=NOSPACE&exclude=&exclude=X") == healthy
    site.alarms = []
    site.node.leader_id = 0
    assert site.get("/health") == (503, '{"health":"false","reason":"RAFT NO LEADER"}\n')
    assert site.get("/health?serializable=true") == healthy
    assert site.get("/health?serializable=1")[0] == 503
    text = site.metrics.text()
    assert "etcd_server_health_success 3\n" in text
    assert "etcd_server_health_failures 3\n" in text


async def test_health_waits_for_a_read_and_tells_why_it_failed() -> None:
    site = Site()
    site.node.ready = False
    answers = site.ask("/health")
    assert answers == []
    run, fail = site.node.waiting.pop()
    run()
    fail(errors.LEADER_CHANGED)  # a second outcome changes nothing
    assert [answer.status for answer in answers] == [200]

    answers = site.ask("/health")
    site.node.waiting.pop()[1](errors.LEADER_CHANGED)
    (answer,) = answers
    assert answer.body == (
        b'{"health":"false","reason":"RANGE ERROR:etcdserver: leader changed"}\n'
    )


async def test_a_probe_gives_up_after_the_request_timeout() -> None:
    site = Site(timeout_s=0.0)
    site.node.ready = False
    arrived = asyncio.Event()
    answers: list[Http1Response] = []

    def respond(answer: Http1Response) -> None:
        answers.append(answer)
        arrived.set()

    site.router(Http1Request("GET", "/readyz"), respond)
    await arrived.wait()
    assert answers[0].status == 503
    assert b"[-]linearizable_read failed: context deadline exceeded\n" in answers[0].body


def test_livez_and_readyz() -> None:
    site = Site()
    assert site.get("/livez") == (200, "ok\n")
    assert site.get("/livez?verbose") == (200, "[+]serializable_read ok\nok\n")
    site.is_learner = True
    assert site.get("/readyz/non_learner")[0] == 503
    assert "[-]non_learner failed: not supported for learner" in site.get("/readyz")[1]
    site.is_learner = False
    assert site.get("/readyz/non_learner") == (200, "ok\n")
    assert site.get("/readyz?verbose=1&exclude=linearizable_read") == (
        200,
        "[+]data_corruption ok\n[+]serializable_read ok\n[+]non_learner ok\nok\n",
    )
    site.alarms = ["CORRUPT"]
    status, body = site.get("/readyz")
    assert status == 503
    assert body.startswith("[-]data_corruption failed: alarm activated: CORRUPT\n")
    assert body.endswith("[+]non_learner ok\n\n")
    assert site.get("/livez")[0] == 200
    assert site.get("/livez/no_such") == (404, "404 page not found\n")
    text = site.metrics.text()
    assert 'etcd_server_healthcheck{type="readyz",name="data_corruption"} 0\n' in text
    assert (
        'etcd_server_healthchecks_total{type="readyz",name="data_corruption",status="error"} 1\n'
        in text
    )


def test_cors() -> None:
    (answer,) = Site().ask("/version", "OPTIONS")
    assert (answer.status, header(answer, "Access-Control-Allow-Origin")) == (200, "*")
    site = Site(cors=("http://a.example",))
    assert header(site.ask("/version")[0], "Access-Control-Allow-Origin") is None
    (answer,) = site.ask("/version", origin="http://a.example")
    assert header(answer, "Access-Control-Allow-Origin") == "http://a.example"
    (answer,) = site.ask("/version", origin="http://b.example")
    assert header(answer, "Access-Control-Allow-Origin") is None


@pytest.mark.parametrize(
    ("host", "status"),
    [("db.example:2379", 200), ("db.example", 200), ("evil.example", 421), ("[::1]:2379", 200)],
)
def test_host_whitelist(host: str, status: int) -> None:
    site = Site(hosts=("db.example", "::1"))
    assert site.ask("/version", host=host)[0].status == status
