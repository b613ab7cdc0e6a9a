"""Spans and metrics of services and groups."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import coord
from tests.support.telemetry import Listener, attributes_of, context_of, listening

REGISTER, JOIN = "coord.registry.register", "coord.membership.join"


@pytest.fixture
def listener() -> Iterator[Listener]:
    with listening() as made:
        yield made


async def test_registering_and_joining_are_spans(
    listener: Listener, client: coord.Client, prefix: str
) -> None:
    await client.default_session()
    async with client.registry(prefix + "web").register("h:1") as registration:
        span = listener.one(REGISTER)
        assert attributes_of(span) == {
            "coord.name": prefix + "web",
            "coord.outcome": "granted",
        }
        create = listener.named("etcdserverpb.KV/Txn")[0]
        assert create.parent is not None
        assert create.parent.span_id == context_of(span).span_id
        with pytest.raises(coord.AlreadyRegistered):
            await client.registry(prefix + "web").register("h:1")
        failed = attributes_of(listener.named(REGISTER)[-1])
        assert failed["coord.outcome"] == "failed"
        assert failed["error.type"] == "AlreadyRegistered"
        await client.registry(prefix + "web").register("h:2", id="h:2", on_removed="stop")
        await client.delete(f"{prefix}web/h:2")
        other = client.registry(prefix + "web", ttl=10)
        second = await other.register("h:3", id="h:1", takeover=True)
        assert await registration.lost.wait(timeout=20)
        await second.deregister()
    async with client.membership(prefix + "g").join("a"):
        assert attributes_of(listener.one(JOIN))["coord.name"] == prefix + "g"
    assert listener.count("coord.client.wait.duration", coord__recipe="membership") == 1
    done = {"coord__recipe": "registry", "coord__cleanup": "release", "coord__outcome": "done"}
    assert listener.total("coord.client.cleanups", **done) == 1
    assert listener.total("coord.client.losses", coord__recipe="registry") >= 1
