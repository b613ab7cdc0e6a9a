"""Services and groups without ``await``."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

import coord
import coord.sync
from tests.support.servers import ServerProcess

WITHIN_S = 20.0


@pytest.fixture(params=["coord", "etcd", "memory"])
def client(request: pytest.FixtureRequest) -> Iterator[coord.sync.Client]:
    target = "memory:"
    if request.param != "memory":
        server: ServerProcess = request.getfixturevalue(f"{request.param}_process")
        target = server.endpoint
    with coord.sync.connect(target) as made:
        yield made


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_service(client: coord.sync.Client, prefix: str) -> None:
    registry = client.registry(prefix + "web")
    assert registry.name == f"{prefix}web".encode()
    with registry.discover(strategy="weighted", timeout=WITHIN_S) as view:
        assert (view.service, view.instances(), view.undecodable) == (prefix + "web", (), {})
        with view.watch() as lists:
            assert next(lists) == ()
            with registry.register("h:1", zone="eu", timeout=WITHIN_S) as registration:
                (found,) = next(lists)
        assert (registration.id, registration.addr) == ("h:1", "h:1")
        assert (found.zone, found.token, found.key) == ("eu", registration.token, registration.key)
        assert not registration.is_listed
        until(lambda: view.instances() == ())  # a view is a moment behind
        second = registry.register("h:2")
        assert view.wait_for(1, timeout=WITHIN_S)[0].addr == "h:2"
        assert second.health == "serving"
        picked = view.pick()
        view.report(picked, ok=True, latency=0.1)
        second.update(weight=4)
        until(lambda: view.instances()[0].weight == 4)
        assert list(client.services(prefix)) == [prefix + "web"]
        assert second.drain(0.01) is True
        assert not second.lost.is_set()
        assert second.deregister() is True
        until(lambda: view.instances() == ())
        with pytest.raises(coord.NoInstance):
            view.pick()
        assert view.stale_for == 0
    with pytest.raises(coord.ClientClosed):
        view.instances()


def test_health_is_asked_on_a_worker_thread(client: coord.sync.Client, prefix: str) -> None:
    threads: list[str] = []

    def ask() -> bool:
        threads.append(threading.current_thread().name)
        return False

    check = coord.HealthCheck(ask, period=0.02, fall=1)
    with client.registry(prefix + "web").register("h:1", health=check) as registration:
        until(lambda: not registration.is_listed)
    assert not [name for name in threads if name == "MainThread" or name.endswith("runtime")]


def test_coroutine_functions_are_refused(client: coord.sync.Client) -> None:
    async def ask(*_: object) -> bool:
        return True

    registry = client.registry("web")
    with pytest.raises(coord.InvalidArgument, match="health"):
        registry.register("h:1", health=ask)  # type: ignore[arg-type] # the point
    with pytest.raises(coord.InvalidArgument, match="health"):
        registry.register("h:1", health=coord.HealthCheck(ask))
    with pytest.raises(coord.InvalidArgument, match="probe"):
        registry.discover(probe=ask)  # type: ignore[arg-type] # the point


def test_a_group(client: coord.sync.Client, prefix: str) -> None:
    group = client.membership(prefix + "g", ttl=10)
    assert group.name == f"{prefix}g".encode()
    with group.join("a", data=1) as seat:
        assert (seat.id, seat.is_present, seat.key) == ("a", True, f"{prefix}g/a".encode())
        (member,) = group.members(timeout=WITHIN_S)
        assert (member.token, member.data) == (seat.token, 1)
        with group.watch() as events:
            assert next(events).kind is coord.GroupEventKind.JOINED
            seat.update(2)
            assert next(events).member.data == 2
        seat.check()
        assert group.stale_for == 0
        assert len(group.wait_for(1, timeout=WITHIN_S)) == 1
    assert seat.leave() is True
    with pytest.raises(coord.MembershipTimeout):
        group.wait_for(3, timeout=0.05)
    with (
        pytest.raises(coord.MemberLost),
        client.membership(prefix + "g").join("b", rejoin=False) as seat,
    ):
        client.delete(seat.key)
        seat.lost.wait(timeout=WITHIN_S)
