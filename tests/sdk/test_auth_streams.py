"""What lives long outlives its token: watches without a gap, sessions that stay, over every kind of token."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

import coord
from coord.core import Carrier
from coord.rpc.status import RpcError, StatusCode
from coord.transport import Transport, authenticated
from coord.wire import methods
from tests.sdk.auth_stores import (
    PASSWORD,
    PREFIX,
    USER,
    add_users,
    count,
    end_tokens,
    etcd_cluster,
    etcd_with_users,
    root,
    somebody,
)
from tests.sdk.conftest import CARRIERS, ETCD_RELEASE
from tests.sdk.test_failures import reached
from tests.support.proxy import Proxy
from tests.support.servers import ServerProcess, free_port, real_etcd

carriers = pytest.mark.parametrize("transport", CARRIERS)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with etcd_with_users(tmp_path_factory.mktemp("etcd-users")) as server:
        yield server


def jwt_flag(folder: Path, ttl: str) -> str:
    """Make a key pair for tokens, and return the flag for it."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private, public = folder / "jwt.key", folder / "jwt.pub"
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
    )
    public.write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    return f"--auth-token=jwt,sign-method=RS256,pub-key={public},priv-key={private},ttl={ttl}"


async def values(watch: coord.Watch, number: int) -> list[str]:
    return [(await anext(watch)).value.decode() for _ in range(number)]


@carriers
async def test_a_watch_and_a_session_outlive_their_tokens(
    store: ServerProcess, transport: Carrier, prefix: str
) -> None:
    key = PREFIX + prefix
    async with (
        somebody(store) as (admin, name),
        Proxy(store.endpoint) as proxy,
        coord.connect(proxy.endpoint, user=name, password=PASSWORD, transport=transport) as client,
        client.watch(key + "k") as watch,
        client.session(ttl=3) as session,
    ):
        grant = await client.mutex(key + "lock", session=session).acquire(timeout=10)
        seen: list[str] = []
        for round_ in range(6):
            await end_tokens(admin, name)
            for number in range(20):
                await admin.put(key + "k", f"{round_}.{number}")
                if number == 10:
                    proxy.cut()
            if round_ % 2:
                await client.put(key + "other", "x")  # a new token before the watch needs one
            seen += await values(watch, 20)
        assert seen == [f"{r}.{n}" for r in range(6) for n in range(20)]
        # Renewed on a stream that was opened since.
        valid = session.valid_for()

        async def renewed() -> bool:
            return session.valid_for() > valid

        await reached(renewed, "the session is renewed")
        grant.check()
        assert await grant.release()


@carriers
async def test_a_watch_on_a_stream_whose_token_has_ended(
    store: ServerProcess, transport: Carrier, prefix: str
) -> None:
    key = PREFIX + prefix
    async with (
        somebody(store) as (admin, name),
        coord.connect(store.endpoint, user=name, password=PASSWORD, transport=transport) as client,
        client.watch(key, prefix=True) as early,
    ):
        await client.put(key + "1", "1")
        await end_tokens(admin, name)
        async with client.watch(key, prefix=True, start_revision=1) as late:
            await client.put(key + "2", "2")
            assert await values(late, 2) == ["1", "2"]
        assert await values(early, 2) == ["1", "2"]


@carriers
async def test_a_namespace_within_the_rights(
    store: ServerProcess, transport: Carrier, prefix: str
) -> None:
    url = f"etcd://{{}}:{PASSWORD}@{store.endpoint}/{PREFIX}{prefix}"
    async with (
        somebody(store) as (admin, name),
        coord.connect(url.format(name), transport=transport) as client,
        client.watch("k") as early,
    ):
        await client.put("k", "1")
        await end_tokens(admin, name)
        # The question about the right to read is about the key as the store knows it.
        assert await values(client.watch("k", start_revision=1), 1) == ["1"]
        assert await values(early, 1) == ["1"]
        assert await admin.get(f"{PREFIX}{prefix}k") is not None


@carriers
async def test_a_stream_that_is_turned_down_for_its_token(
    store: ServerProcess, transport: Carrier
) -> None:
    path = methods.MAINTENANCE_SNAPSHOT.path
    async with somebody(store) as (admin, name):
        await admin.auth.user_grant_role(name, "root")
        async with coord.connect(
            store.endpoint, user=name, password=PASSWORD, transport=transport, runtime="inline"
        ) as client:
            await client.put(PREFIX, "x")
            await end_tokens(admin, name)
            answers: list[bytes | RpcError | None] = []
            for _ in range(2):
                stream = await client._core.transport.open_stream(path, timeout=10)
                stream.send(b"")
                stream.half_close()
                try:
                    answers.append(await stream.receive())
                except RpcError as error:
                    answers.append(error)
                stream.cancel()
            refused, snapshot = answers
            # As if the connection had been lost, so that its owner opens another.
            assert isinstance(refused, RpcError)
            assert refused.code is StatusCode.UNAVAILABLE
            assert "the token of the stream has ended" in refused.message
            assert isinstance(snapshot, bytes)
            assert snapshot


@carriers
async def test_a_watch_that_is_denied_leaves_the_others_alone(
    store: ServerProcess, transport: Carrier, prefix: str
) -> None:
    key = PREFIX + prefix
    async with (
        coord.connect(store.endpoint, user=USER, password=PASSWORD, transport=transport) as client,
        client.watch(key) as watch,
    ):
        logins, streams = count(store, "Authenticate"), count(store, "Watch")
        for _ in range(3):
            with pytest.raises(coord.PermissionDenied, match="permission denied"):
                await anext(client.watch("shut", start_revision=1))
            with pytest.raises(coord.PermissionDenied, match="permission denied"):
                # Part of it would be allowed.
                await anext(client.watch(PREFIX, end="z", start_revision=1))
        await client.put(key, "x")
        assert await values(watch, 1) == ["x"]
        assert (count(store, "Authenticate"), count(store, "Watch")) == (logins, streams)


class Answering:
    """A transport whose unary calls are answered by the test."""

    def __init__(self, inner: Transport, answer: Callable[[], bytes]) -> None:
        self._inner = inner
        self._answer = answer
        self.open_stream = inner.open_stream
        self.asked = 0

    async def unary(self, *_arguments: object, **_options: object) -> bytes:
        self.asked += 1
        return self._answer()


def answer_to_watches(client: coord.Client, answer: Callable[[], bytes]) -> Answering:
    """Let the test say what the store says about a right to read; for ``runtime="inline"`` clients."""
    core: Any = client._core
    answering = Answering(core.transport, answer)
    core.watches._transport = answering
    return answering


async def test_a_question_about_a_right_that_is_not_answered(
    store: ServerProcess, prefix: str
) -> None:
    failures = [RpcError(StatusCode.UNAVAILABLE, "no leader") for _ in range(2)]
    failures.append(RpcError(StatusCode.PERMISSION_DENIED, "at last"))

    def answer() -> bytes:
        raise failures.pop(0)

    async with (
        coord.connect(store.endpoint, user=USER, password=PASSWORD, runtime="inline") as client,
        client.watch(PREFIX + prefix) as watch,
    ):
        answering = answer_to_watches(client, answer)
        with pytest.raises(coord.PermissionDenied, match="at last"):
            await anext(client.watch("shut", start_revision=1))
        assert answering.asked == 3
        await client.put(PREFIX + prefix, "x")
        assert await values(watch, 1) == ["x"]


async def test_a_watch_that_is_refused_although_it_might_read(store: ServerProcess) -> None:
    async with coord.connect(
        store.endpoint, user=USER, password=PASSWORD, runtime="inline"
    ) as client:
        answering = answer_to_watches(client, lambda: b"")
        with pytest.raises(coord.PermissionDenied, match="permission denied"):
            await anext(client.watch("shut", start_revision=1))
        assert answering.asked == 4
        closing = asyncio.ensure_future(anext(client.watch("shut", start_revision=1)))

        async def asked_again() -> bool:
            return answering.asked > 4

        await reached(asked_again, "the refusal is looked into")
    with pytest.raises(coord.CoordError):
        await closing


async def test_streams_begin_with_a_young_token(
    store: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authenticated, "_STREAM_TOKEN_AGE_S", 0.0)
    answers: list[str | OSError] = [PASSWORD, PASSWORD, OSError("vault is sealed"), "wrong"]

    def password() -> str:
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    before = count(store, "Authenticate")
    async with coord.connect(store.endpoint, user=USER, password=password) as client:
        lease = (await client.lease_grant(30)).lease_id
        assert count(store, "Authenticate") == before + 1
        await client.lease_keep_alive_once(lease)
        assert count(store, "Authenticate") == before + 2
        # Without another token the present one has to do, and does.
        await client.lease_keep_alive_once(lease)
        assert count(store, "Authenticate") == before + 2
        with pytest.raises(coord.PermissionDenied, match="invalid user ID or password"):
            await client.lease_keep_alive_once(lease)
        assert answers == []


@carriers
async def test_tokens_that_are_worth_nothing(tmp_path: Path, transport: Carrier) -> None:
    with etcd_with_users(tmp_path, jwt_flag(tmp_path, "-1h")) as server:
        before = count(server, "Authenticate")
        async with coord.connect(
            server.endpoint, user=USER, password=PASSWORD, transport=transport, request_timeout=30
        ) as client:
            calls = [asyncio.ensure_future(client.get(PREFIX)) for _ in range(20)]
            await asyncio.wait(calls)
            for call in calls:
                assert isinstance(call.exception(), coord.PermissionDenied), call
                assert "invalid auth token" in str(call.exception())
        # One at first, and three to replace it, for all calls together.
        assert count(server, "Authenticate") == before + 4


@carriers
async def test_a_right_that_is_taken_away_and_given_back(
    store: ServerProcess, transport: Carrier, prefix: str
) -> None:
    key = PREFIX + prefix
    async with (
        somebody(store) as (admin, name),
        coord.connect(store.endpoint, user=name, password=PASSWORD, transport=transport) as client,
    ):
        await client.put(key, "x")
        await admin.auth.user_revoke_role(name, "opener")
        for call in (client.put(key, "y"), anext(client.watch(key, start_revision=1))):
            with pytest.raises(coord.PermissionDenied, match="permission denied"):
                await call
        await admin.auth.user_grant_role(name, "opener")
        await client.put(key, "z")
        assert await values(client.watch(key, start_revision=1), 2) == ["x", "z"]


@carriers
async def test_a_server_that_restarts_forgets_its_tokens(
    tmp_path: Path, transport: Carrier
) -> None:
    listen = f"http://127.0.0.1:{free_port()}"
    key = PREFIX + "k"
    with contextlib.ExitStack() as servers:
        server = servers.enter_context(real_etcd(tmp_path, version=ETCD_RELEASE, listen=listen))
        add_users(server.endpoint)
        async with (
            coord.connect(
                server.endpoint, user=USER, password=PASSWORD, transport=transport
            ) as client,
            client.watch(key) as watch,
            client.session(ttl=30) as session,
        ):
            await client.put(key, "before")
            await asyncio.to_thread(server.stop)
            waiting = asyncio.ensure_future(client.put(key, "after", timeout=30))
            servers.enter_context(real_etcd(tmp_path, version=ETCD_RELEASE, listen=listen))
            await waiting
            assert await values(watch, 2) == ["before", "after"]
            assert await client.lease_keep_alive_once(session.lease_id) == session.ttl
            assert session.valid_for() > 0


@carriers
async def test_members_that_come_and_go(tmp_path: Path, transport: Carrier) -> None:
    # Each member counts for itself how long a token was not used, and all forget it after a second.
    key = PREFIX + "k"
    with etcd_cluster(tmp_path, 3, "--auth-token-ttl=1") as members:
        endpoints = [member.endpoint for member in members]
        async with (
            coord.connect(
                endpoints, user=USER, password=PASSWORD, transport=transport, request_timeout=30
            ) as client,
            client.watch(key) as watch,
            client.session(ttl=30) as session,
        ):
            grant = await client.mutex(PREFIX + "lock", session=session).acquire(timeout=30)
            for member in members:
                # Whichever it uses, it has to leave each of them once.
                member.process.send_signal(signal.SIGSTOP)
                try:
                    while await written(client, key) is None:
                        pass  # a member that is held still gives no answer
                finally:
                    member.process.send_signal(signal.SIGCONT)
            last = await client.get(key)
            assert last is not None
            seen = [(await anext(watch)).kv.version for _ in range(last.version)]
            assert seen == list(range(1, last.version + 1))
            grant.check()


async def written(client: coord.Client, key: str) -> int | None:
    """Write once, and return the revision, or None if that is not known."""
    try:
        return (await client.put(key, "x", timeout=2)).revision
    except (coord.AmbiguousResult, coord.Unavailable):
        return None


@pytest.mark.parametrize("kind", ["simple", "jwt"])
@carriers
async def test_tokens_that_end_by_themselves(tmp_path: Path, transport: Carrier, kind: str) -> None:
    flag = "--auth-token-ttl=1" if kind == "simple" else jwt_flag(tmp_path, "1s")
    key = PREFIX + "k"
    with etcd_with_users(tmp_path, flag) as server:
        async with (
            coord.connect(
                server.endpoint, user=USER, password=PASSWORD, transport=transport
            ) as client,
            root(server.endpoint) as admin,
            client.watch(key) as watch,
            client.session(ttl=3) as session,
        ):
            ended = puts = 0
            while ended < 2:
                # Nothing is sent meanwhile, since simple tokens live on while they are used.
                before = count(server, "Authenticate")
                await asyncio.sleep(2.2)
                assert count(server, "Authenticate") == before
                await client.put(key, f"{puts}")
                puts += 1
                ended += count(server, "Authenticate") - before
                await anext(client.watch(key, start_revision=1))
            assert await values(watch, puts) == [str(number) for number in range(puts)]
            assert session.valid_for() > 0
            assert await admin.get(key) is not None


@carriers
async def test_every_change_of_users_makes_a_jwt_old(tmp_path: Path, transport: Carrier) -> None:
    with etcd_with_users(tmp_path, jwt_flag(tmp_path, "5m")) as server:
        async with (
            coord.connect(
                server.endpoint, user=USER, password=PASSWORD, transport=transport
            ) as client,
            root(server.endpoint) as admin,
            client.watch(PREFIX, prefix=True) as watch,
        ):
            await admin.get("k")
            before = count(server, "Authenticate")
            for number in range(5):
                await admin.auth.role_add(f"role{number}")
                async with asyncio.TaskGroup() as group:
                    for each in range(20):
                        group.create_task(client.put(f"{PREFIX}{number}.{each}", "x"))
            assert count(server, "Authenticate") == before + 5
            keys = {(await anext(watch)).key.decode() for _ in range(100)}
            assert keys == {f"{PREFIX}{n}.{e}" for n in range(5) for e in range(20)}
