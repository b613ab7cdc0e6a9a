"""Logging in, once for everybody, and again when the server has forgotten a token."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import coord
from coord.core import Carrier, Placement
from coord.rpc.metadata import Metadata
from coord.rpc.status import RpcError, StatusCode
from coord.runtime import real_env
from coord.sync import connect
from coord.target import parse_target
from coord.transport import Transport, tokens
from coord.transport.native import NativeTransport
from coord.wire import methods, rpc_pb2
from tests.sdk.auth_stores import (
    PASSWORD,
    PREFIX,
    USER,
    count,
    end_tokens,
    etcd_with_users,
    somebody,
)
from tests.sdk.conftest import CARRIERS, ETCD_RELEASE
from tests.sdk.test_failures import reached
from tests.support.proxy import Proxy
from tests.support.servers import ServerProcess, free_port, real_etcd

carriers = pytest.mark.parametrize("transport", CARRIERS)
WAYS: list[tuple[Carrier, Placement]] = [
    ("native", "thread"),
    ("native", "inline"),
    ("grpcio", "thread"),
]
ways = pytest.mark.parametrize(("transport", "runtime"), WAYS)
KEY = PREFIX + "key"
AT_ONCE = 40


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with etcd_with_users(tmp_path_factory.mktemp("etcd-users")) as server:
        yield server


async def token_of(server: ServerProcess, name: str, password: str = PASSWORD) -> str:
    """Log in by hand."""
    carrier = NativeTransport(parse_target(server.endpoint).endpoints, real_env())
    try:
        request = rpc_pb2.AuthenticateRequest(name=name, password=password)
        path = methods.AUTH_AUTHENTICATE.path
        answer = await carrier.unary(path, request.SerializeToString(), timeout=10)
    finally:
        await carrier.close()
    return rpc_pb2.AuthenticateResponse.FromString(answer).token


@ways
async def test_one_login_for_all_calls(
    store: ServerProcess, transport: Carrier, runtime: Placement
) -> None:
    async with somebody(store) as (admin, name):
        before = count(store, "Authenticate")
        async with coord.connect(
            store.endpoint, user=name, password=PASSWORD, transport=transport, runtime=runtime
        ) as client:
            assert count(store, "Authenticate") == before
            for logins in (1, 2, 3):
                async with asyncio.TaskGroup() as group:
                    for number in range(AT_ONCE):
                        group.create_task(client.put(f"{KEY}{number}", str(logins)))
                        group.create_task(client.get(f"{KEY}{number}"))
                assert count(store, "Authenticate") == before + logins
                await end_tokens(admin, name)


def test_threads_share_a_login(store: ServerProcess) -> None:
    before = count(store, "Authenticate")
    with connect(store.endpoint, user=USER, password=PASSWORD) as client:
        threads = [threading.Thread(target=client.get, args=(KEY,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert client.auth.user_get(USER).roles == ("opener",)
    assert count(store, "Authenticate") == before + 1


@carriers
async def test_from_the_url_and_from_the_environment(
    store: ServerProcess, transport: Carrier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That each put is let in is the claim: without the right user the store denies it."""
    async with coord.connect(
        f"etcd://{USER}:{PASSWORD.replace('-', '%2D')}@{store.endpoint}", transport=transport
    ) as client:
        await client.put(KEY, "x")
    monkeypatch.setenv("COORD_PASSWORD", PASSWORD)
    async with coord.connect(f"etcd://{USER}@{store.endpoint}", transport=transport) as client:
        await client.put(KEY, "x")
    monkeypatch.setenv("COORD_USER", USER)
    async with coord.connect(store.endpoint, transport=transport) as client:
        await client.put(KEY, "x")
        again = client.after_fork()
    async with again as client:
        await client.put(KEY, "x")


@ways
async def test_a_refused_password_is_asked_about_once(
    store: ServerProcess,
    transport: Carrier,
    runtime: Placement,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("_PAUSE_FIRST_S", "_PAUSE_MAX_S"):
        monkeypatch.setattr(tokens, name, 3600.0)
    before = count(store, "Authenticate")
    async with coord.connect(
        store.endpoint, user=USER, password="wrong", transport=transport, runtime=runtime
    ) as client:
        calls = [asyncio.ensure_future(client.put(KEY, "x")) for _ in range(AT_ONCE)]
        await asyncio.wait(calls)
        for call in calls:
            assert isinstance(call.exception(), coord.PermissionDenied)
            assert "invalid user ID or password" in str(call.exception())
        with pytest.raises(coord.PermissionDenied):
            await client.put(KEY, "x")
        with pytest.raises(coord.PermissionDenied):
            await anext(client.watch(KEY, start_revision=1))
    assert count(store, "Authenticate") == before + 1


@ways
async def test_a_password_that_becomes_right(
    store: ServerProcess, transport: Carrier, runtime: Placement
) -> None:
    async with (
        somebody(store) as (admin, name),
        coord.connect(
            store.endpoint, user=name, password="new", transport=transport, runtime=runtime
        ) as client,
    ):

        async def accepted() -> bool:
            try:
                await client.put(KEY, "x")
            except coord.PermissionDenied:
                return False
            return True

        assert not await accepted()
        await end_tokens(admin, name, "new")
        await reached(accepted, "the password is accepted")


@carriers
async def test_nobody_in_particular_is_refused(store: ServerProcess, transport: Carrier) -> None:
    async with coord.connect(store.endpoint, transport=transport) as client:
        with pytest.raises(coord.PermissionDenied, match="user name is empty"):
            await client.put(KEY, "x")
        with pytest.raises(coord.PermissionDenied, match="user name is empty"):
            await anext(client.watch(KEY, start_revision=1))


@carriers
async def test_authentication_that_is_turned_on_and_off(tmp_path: Path, transport: Carrier) -> None:
    has_status = ETCD_RELEASE.startswith("3.5")
    with real_etcd(tmp_path, version=ETCD_RELEASE) as server:
        async with (
            coord.connect(server.endpoint) as admin,
            coord.connect(
                server.endpoint, user="root", password="pw", transport=transport
            ) as client,
            client.watch("k") as watch,
        ):
            await client.put("k", "before")
            if has_status:
                assert not (await client.auth.status()).enabled
            await admin.auth.user_add("root", "pw")
            await admin.auth.user_grant_role("root", "root")
            for round_ in range(2):
                await client.auth.enable()
                await client.put("k", f"on {round_}")
                # The stream was opened by nobody in particular, or with a token of the time before.
                late = client.watch("k", start_revision=1)
                assert (await anext(late)).value == b"before"
                with pytest.raises(coord.PermissionDenied):
                    await admin.get("k")
                if has_status:
                    assert (await client.auth.status()).enabled
                await client.auth.disable()
                await client.put("k", f"off {round_}")
            values = [(await anext(watch)).value.decode() for _ in range(5)]
            assert values == ["before", "on 0", "off 0", "on 1", "off 1"]


@carriers
async def test_a_fixed_token_is_never_renewed(store: ServerProcess, transport: Carrier) -> None:
    async with somebody(store) as (admin, name):
        token = await token_of(store, name)
        before = count(store, "Authenticate")
        async with coord.connect(store.endpoint, token=token, transport=transport) as client:
            await client.put(KEY, "x")
            async with client.watch(KEY) as watch, client.session() as session:
                await client.put(KEY, "y")
                assert (await anext(watch)).value == b"y"
                assert session.valid_for() > 0
            await end_tokens(admin, name)
            for _ in range(3):
                with pytest.raises(coord.PermissionDenied, match="invalid auth token"):
                    await client.put(KEY, "x")
            with pytest.raises(coord.PermissionDenied, match="invalid auth token"):
                await anext(client.watch(KEY, start_revision=1))
        assert count(store, "Authenticate") == before


@ways
async def test_a_password_that_changes(
    store: ServerProcess, transport: Carrier, runtime: Placement
) -> None:
    async with somebody(store) as (admin, name):
        secret = [PASSWORD]
        asked: list[threading.Thread] = []

        def password() -> str:
            asked.append(threading.current_thread())
            return secret[0]

        async with coord.connect(
            store.endpoint, user=name, password=password, transport=transport, runtime=runtime
        ) as client:
            await client.put(KEY, "x")
            for number in range(3):
                secret[0] = f"rotated {number}"
                await end_tokens(admin, name, secret[0])
                await client.put(KEY, "x")
        assert len(asked) == 4
        assert threading.main_thread() not in asked
        assert not any("runtime" in thread.name for thread in asked)


async def test_a_password_that_cannot_be_had(store: ServerProcess) -> None:
    answers: list[object] = [OSError("vault is sealed"), "", 17, PASSWORD]

    def password() -> str:
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, OSError):
            raise answer
        return answer  # type: ignore[return-value]

    async with coord.connect(store.endpoint, user=USER, password=password) as client:
        await client.put(
            KEY, "x"
        )  # nothing was sent before there was a password, so it is tried again
        assert answers == [PASSWORD]

    def never() -> str:
        raise OSError("vault is sealed")

    async with coord.connect(store.endpoint, user=USER, password=never) as client:
        with pytest.raises(coord.Unavailable, match="no password: OSError") as caught:
            await client.put(KEY, "x", timeout=1)
        chain: list[BaseException] = []
        error: BaseException | None = caught.value
        while error is not None:
            chain.append(error)
            error = error.__cause__
        assert isinstance(chain[-1], OSError)


async def test_a_login_that_hangs_tells_why_the_one_before_failed(store: ServerProcess) -> None:
    asked, over = threading.Semaphore(1), threading.Event()

    def password() -> str:
        if not asked.acquire(blocking=False):
            over.wait(30)
        raise OSError("vault is sealed")

    async with coord.connect(store.endpoint, user=USER, password=password) as client:
        try:
            told = "no answer to the login in time .*; the one before failed: no password: OSError"
            with pytest.raises(coord.Unavailable, match=told):
                await client.put(KEY, "x", timeout=1)
        finally:
            over.set()


@carriers
async def test_a_user_who_is_deleted(store: ServerProcess, transport: Carrier) -> None:
    async with (
        somebody(store) as (admin, name),
        Proxy(store.endpoint) as proxy,
        coord.connect(proxy.endpoint, user=name, password=PASSWORD, transport=transport) as client,
        client.watch(KEY) as watch,
    ):
        await admin.auth.user_delete(name)
        with pytest.raises(coord.PermissionDenied):
            await client.put(KEY, "x")
        await admin.put(KEY, "still seen")
        assert (await anext(watch)).value == b"still seen"
        proxy.cut()
        with pytest.raises(coord.PermissionDenied):
            await anext(watch)


async def test_no_answer_to_the_login(store: ServerProcess) -> None:
    async with Proxy(store.endpoint) as proxy:
        connecting = coord.connect(
            proxy.endpoint, user=USER, password=PASSWORD, request_timeout=0.3
        )
        async with connecting as client:
            proxy.hold_answers()
            # Not ambiguous: the write itself never left.
            with pytest.raises(coord.Unavailable):
                await client.put(KEY, "x")
            with pytest.raises(coord.Unavailable):
                await client.put(KEY, "x")
            proxy.pass_on()
            await client.put(KEY, "x", timeout=10)


class Gate:
    """A password that is asked for, and given when the test says so."""

    def __init__(self) -> None:
        self.asked, self.given = threading.Event(), threading.Event()

    def __call__(self) -> str:
        self.asked.set()
        self.given.wait()
        return PASSWORD


@ways
async def test_a_caller_that_gives_up_leaves_the_login_to_the_others(
    store: ServerProcess, transport: Carrier, runtime: Placement
) -> None:
    before, gate = count(store, "Authenticate"), Gate()
    async with coord.connect(
        store.endpoint, user=USER, password=gate, transport=transport, runtime=runtime
    ) as client:
        first = asyncio.ensure_future(client.put(KEY, "first"))
        stream = asyncio.ensure_future(anext(client.watch(KEY, start_revision=1)))
        await asyncio.to_thread(gate.asked.wait)
        second = asyncio.ensure_future(client.get(PREFIX + "second"))
        first.cancel()
        stream.cancel()
        with pytest.raises(coord.Unavailable):
            await client.get(KEY, timeout=0.05)
        gate.given.set()
        assert await second is None
        for given_up in (first, stream):
            with pytest.raises(asyncio.CancelledError):
                await given_up
    assert count(store, "Authenticate") == before + 1


@ways
async def test_closing_during_a_login(
    store: ServerProcess, transport: Carrier, runtime: Placement
) -> None:
    gate = Gate()
    client = await coord.connect(
        store.endpoint, user=USER, password=gate, transport=transport, runtime=runtime
    )
    calls = [asyncio.ensure_future(c) for c in (client.put(KEY, "x"), client.get(KEY))]
    await asyncio.to_thread(gate.asked.wait)
    try:
        await client.close()
    finally:
        gate.given.set()
    await asyncio.wait(calls)
    for call in calls:
        assert isinstance(call.exception(), coord.ClientClosed)


async def test_a_store_without_users() -> None:
    with pytest.raises(coord.InvalidArgument, match="memory: knows no users"):
        coord.connect("memory:", user="a", password="b")


async def test_coord_server_knows_no_users_yet(coord_process: ServerProcess) -> None:
    async with coord.connect(coord_process.endpoint) as client:
        with pytest.raises(coord.RequestRefused, match="AuthStatus is not supported by this"):
            await client.auth.status()
    async with coord.connect(coord_process.endpoint, user="a", password="b") as client:
        with pytest.raises(coord.PermissionDenied, match="this server knows no users"):
            await client.get("k")


class LosingLogins:
    """Under the logins of a ``runtime="inline"`` client: what becomes of the first ones."""

    closed = False

    def __init__(self, client: coord.Client, outcomes: list[bytes | RpcError]) -> None:
        core: Any = client._core
        source = core.transport.tokens
        self._inner: Transport = source._transport
        self._outcomes = outcomes
        self.endpoints = self._inner.endpoints
        self.suspicions = 0
        source._transport = self

    async def unary(
        self, path: str, request: bytes, *, timeout: float, metadata: Metadata
    ) -> bytes:
        if not self._outcomes:
            return await self._inner.unary(path, request, timeout=timeout, metadata=metadata)
        outcome = self._outcomes.pop(0)
        if isinstance(outcome, RpcError):
            raise outcome
        return outcome

    def suspect(self) -> None:
        self.suspicions += 1


async def test_logins_that_fail_on_the_way(store: ServerProcess) -> None:
    async with coord.connect(
        store.endpoint, user=USER, password=PASSWORD, runtime="inline"
    ) as client:
        outcomes: list[bytes | RpcError] = [
            RpcError(StatusCode.UNAVAILABLE, "connection lost"),
            RpcError(StatusCode.UNAVAILABLE, "no connection", sent=False),
            RpcError(StatusCode.UNKNOWN, "auth: token signing attempted with verify-only key"),
            b"no message",
        ]
        losing = LosingLogins(client, outcomes)
        # The write itself has not been sent, so that there is no doubt about it.
        await client.put(KEY, "x")
        assert outcomes == []
        assert losing.suspicions == 2  # a member that did not answer, and one that cannot
        await client.lease_keep_alive_once((await client.lease_grant(30)).lease_id)


async def test_a_client_that_is_closed(store: ServerProcess) -> None:
    client = await coord.connect(store.endpoint, user=USER, password=PASSWORD, runtime="inline")
    transport = client._core.transport
    await client.close()
    for call in (
        transport.unary("/a.B/C", b"", timeout=1),
        transport.open_stream("/a.B/C", timeout=1),
    ):
        with pytest.raises(RpcError) as caught:
            await call
        assert (caught.value.code, caught.value.sent) == (StatusCode.CANCELLED, False)
    told: list[bytes | RpcError] = []
    assert transport.start_unary("/a.B/C", b"", told.append, timeout=1) is not None
    (outcome,) = told
    assert isinstance(outcome, RpcError)
    assert (outcome.code, outcome.sent) == (StatusCode.CANCELLED, False)


async def test_the_store_may_come_late(store: ServerProcess) -> None:
    dead = f"127.0.0.1:{free_port()}"
    async with coord.connect([dead, store.endpoint], user=USER, password=PASSWORD) as client:
        await client.put(KEY, "x")
        assert client.connection.endpoint == store.endpoint


async def test_errors_of_the_store_are_told_as_they_are(store: ServerProcess) -> None:
    before = count(store, "Authenticate")
    async with coord.connect(store.endpoint, user=USER, password=PASSWORD) as client:
        with pytest.raises(coord.PermissionDenied, match="permission denied"):
            await client.put("shut", "x")
        with pytest.raises(coord.LeaseNotFound):
            await client.lease_revoke(1)
        with pytest.raises(coord.PermissionDenied, match="permission denied"):
            await client.auth.user_list()
    assert count(store, "Authenticate") == before + 1
