"""``client.auth``: users, roles and permissions, as real etcd keeps them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from pathlib import Path

import pytest

import coord
from coord import Access, Permission, RoleInfo, UserInfo
from coord.rpc.status import StatusCode
from coord.sync import connect
from tests.sdk.auth_stores import PASSWORD, ROOT_PASSWORD, USER, etcd_with_users, root
from tests.sdk.conftest import ETCD_RELEASE
from tests.sdk.test_failures import reached
from tests.support.proxy import Proxy
from tests.support.servers import ServerProcess, etcdctl, real_etcd

HAS_STATUS = ETCD_RELEASE.startswith("3.5")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with etcd_with_users(tmp_path_factory.mktemp("etcd-users")) as server:
        yield server


async def test_users(store: ServerProcess) -> None:
    async with root(store.endpoint) as client:
        auth = client.auth
        await auth.user_add("bob", "one")
        with pytest.raises(coord.UserExists):
            await auth.user_add("bob", "two")
        assert await auth.user_get("bob") == UserInfo(name="bob", roles=())
        for role in ("writers", "readers"):
            await auth.role_add(role)
            await auth.user_grant_role("bob", role)
            await auth.user_grant_role("bob", role)
        assert await auth.user_get("bob") == UserInfo(name="bob", roles=("readers", "writers"))
        await auth.user_revoke_role("bob", "writers")
        for _ in range(2):
            with pytest.raises(coord.NotGranted, match="role is not granted to the user"):
                await auth.user_revoke_role("bob", "writers")
        with pytest.raises(coord.RoleNotFound):
            await auth.user_grant_role("bob", "nothing")
        assert await auth.user_list() == ("alice", "bob", "root")
        async with coord.connect(store.endpoint, user="bob", password="one") as bob:
            assert (await bob.auth.user_get("bob")).roles == ("readers",)
            assert (await bob.auth.role_get("readers")).permissions == ()
            with pytest.raises(coord.PermissionDenied):
                await bob.auth.user_get("root")
        await auth.user_change_password("bob", "two")
        async with coord.connect(store.endpoint, user="bob", password="two") as bob:
            await bob.auth.user_get("bob")
        await auth.user_delete("bob")
        for call in (
            auth.user_delete("bob"),
            auth.user_get("bob"),
            auth.user_change_password("bob", "x"),
            auth.user_grant_role("bob", "readers"),
            auth.user_revoke_role("bob", "readers"),
        ):
            with pytest.raises(coord.UserNotFound):
                await call
        for role in ("writers", "readers"):
            await auth.role_delete(role)


async def test_users_without_a_password(store: ServerProcess) -> None:
    async with root(store.endpoint) as client:
        await client.auth.user_add("machine", no_password=True)
        async with coord.connect(store.endpoint, user="machine", password="x") as machine:
            with pytest.raises(coord.PermissionDenied, match="authentication failed"):
                await machine.get("k")
        await client.auth.user_delete("machine")


async def test_roles(store: ServerProcess) -> None:
    async with root(store.endpoint) as client:
        auth = client.auth
        await auth.role_add("r")
        with pytest.raises(coord.RoleExists):
            await auth.role_add("r")
        assert await auth.role_get("r") == RoleInfo(name="r", permissions=())
        await auth.role_grant_permission("r", "key", Access.READ)
        await auth.role_grant_permission("r", "key", Access.WRITE)
        await auth.role_grant_permission("r", b"a", Access.READ, end="c")
        await auth.role_grant_permission("r", "p/", Access.READWRITE, prefix=True)
        await auth.role_grant_permission("r", "x", Access.READ, end=b"\0")
        await auth.role_grant_permission("r", "", Access.READ, prefix=True)
        expected = (
            Permission(access=Access.READ, key=b"\0", end=b"\0"),
            Permission(access=Access.READ, key=b"a", end=b"c"),
            Permission(access=Access.WRITE, key=b"key"),
            Permission(access=Access.READWRITE, key=b"p/", end=b"p0"),
            Permission(access=Access.READ, key=b"x", end=b"\0"),
        )
        assert (await auth.role_get("r")).permissions == expected
        shown = etcdctl(store.endpoint, f"--user=root:{ROOT_PASSWORD}", "role", "get", "r").stdout
        assert "[p/, p0) (prefix p/)" in shown
        assert "[x, <open ended>" in shown
        with pytest.raises(coord.NotGranted, match="permission is not granted to the role"):
            await auth.role_revoke_permission("r", "a")
        await auth.role_revoke_permission("r", "a", end="c")
        await auth.role_revoke_permission("r", "p/", prefix=True)
        await auth.role_revoke_permission("r", "", prefix=True)
        assert (await auth.role_get("r")).permissions == (expected[2], expected[4])
        assert await auth.role_list() == ("opener", "r")
        await auth.role_delete("r")
        for call in (
            auth.role_delete("r"),
            auth.role_get("r"),
            auth.role_grant_permission("r", "k", Access.READ),
            auth.role_revoke_permission("r", "k"),
        ):
            with pytest.raises(coord.RoleNotFound):
                await call


ACCESS = [(Access.READ, True, False), (Access.WRITE, False, True), (Access.READWRITE, True, True)]


@pytest.mark.parametrize(("access", "may_read", "may_write"), ACCESS)
async def test_what_access_allows(
    store: ServerProcess, access: Access, may_read: bool, may_write: bool
) -> None:
    async with root(store.endpoint) as admin:
        await admin.auth.user_add("carol", "pw")
        await admin.auth.role_add("role")
        await admin.auth.user_grant_role("carol", "role")
        await admin.auth.role_grant_permission("role", "k", access)
        async with coord.connect(store.endpoint, user="carol", password="pw") as carol:
            for call, allowed in ((carol.get("k"), may_read), (carol.put("k", "v"), may_write)):
                if allowed:
                    await call
                else:
                    with pytest.raises(coord.PermissionDenied):
                        await call
        await admin.auth.user_delete("carol")
        await admin.auth.role_delete("role")


@pytest.mark.skipif(not HAS_STATUS, reason="etcd 3.4 has no AuthStatus")
async def test_status(store: ServerProcess) -> None:
    async with root(store.endpoint) as client:
        before = await client.auth.status()
        assert before.enabled
        await client.auth.role_add("counted")
        await client.auth.role_delete("counted")
        assert (await client.auth.status()).auth_revision == before.auth_revision + 2


@pytest.mark.skipif(HAS_STATUS, reason="etcd 3.5 has AuthStatus")
async def test_a_server_without_status(store: ServerProcess) -> None:
    async with root(store.endpoint) as client:
        with pytest.raises(coord.RequestRefused, match="AuthStatus is not supported by this"):
            await client.auth.status()


async def test_what_root_protects(store: ServerProcess) -> None:
    async with root(store.endpoint) as client:
        for call in (client.auth.user_delete("root"), client.auth.user_revoke_role("root", "root")):
            with pytest.raises(coord.RequestRefused, match="invalid auth management") as caught:
                await call
            assert caught.value.code is StatusCode.INVALID_ARGUMENT


async def test_enabling_needs_root(tmp_path: Path) -> None:
    with real_etcd(tmp_path, version=ETCD_RELEASE) as server:
        async with coord.connect(server.endpoint) as client:
            with pytest.raises(coord.RequestRefused, match="root user does not exist"):
                await client.auth.enable()
            await client.auth.user_add("root", "pw")
            with pytest.raises(coord.RequestRefused, match="does not have root role"):
                await client.auth.enable()
            await client.auth.disable()


@pytest.mark.parametrize(
    ("method", "arguments", "words"),
    [
        ("user_add", ("u",), "either a password or no_password"),
        ("user_add", ("u", ""), "password must be text"),
        ("user_add", ("u", "ä" * 37), "longer than 72 bytes"),
        ("user_add", ("", "p"), "user name must be text"),
        ("user_add", (1, "p"), "user name must be text"),
        ("user_change_password", ("u", ""), "password must be text"),
        ("user_grant_role", ("u", ""), "role name must be text"),
        ("role_add", ("",), "role name must be text"),
        ("role_grant_permission", ("r", "", Access.READ), "key must not be empty"),
        ("role_revoke_permission", ("r", ""), "key must not be empty"),
    ],
)
async def test_arguments_that_are_refused(
    store: ServerProcess, method: str, arguments: tuple[object, ...], words: str
) -> None:
    async with coord.connect(store.endpoint) as client:
        with pytest.raises(coord.InvalidArgument, match=words):
            await getattr(client.auth, method)(*arguments)
        with pytest.raises(coord.InvalidArgument, match="either end or prefix"):
            await client.auth.role_grant_permission("r", "k", Access.READ, end="l", prefix=True)
        for end in ("k", "j", ""):
            with pytest.raises(coord.InvalidArgument, match="must lie behind key"):
                await client.auth.role_grant_permission("r", "k", Access.READ, end=end)


Change = Callable[[], Coroutine[None, None, None]]
Names = Callable[[], Awaitable[tuple[str, ...]]]


async def test_a_change_whose_answer_is_lost(store: ServerProcess) -> None:
    async with (
        root(store.endpoint) as direct,
        Proxy(store.endpoint) as proxy,
        root(proxy.endpoint) as client,
    ):
        admin, auth = direct.auth, client.auth
        assert await auth.user_list() == ("alice", "root")
        changes: list[tuple[Change, Names, object]] = [
            (lambda: auth.user_add("dave", "pw"), admin.user_list, UserInfo(name="dave", roles=())),
            (lambda: auth.role_add("late"), admin.role_list, RoleInfo(name="late", permissions=())),
            (lambda: auth.user_delete("dave"), admin.user_list, None),
            (lambda: auth.role_delete("late"), admin.role_list, None),
        ]
        for change, names, found in changes:
            before = await names()
            proxy.hold_answers()
            task = asyncio.ensure_future(change())

            async def applied(names: Names = names, before: tuple[str, ...] = before) -> bool:
                return await names() != before

            await reached(applied, "the change has been applied")
            proxy.cut()
            proxy.pass_on()
            with pytest.raises(coord.AmbiguousResult) as caught:
                await task
            assert await caught.value.resolve() == found


def test_the_blocking_twin(store: ServerProcess) -> None:
    with connect(store.endpoint, user="root", password=ROOT_PASSWORD) as client:
        client.auth.user_add("erin", "pw")
        client.auth.user_change_password("erin", "pw2")
        client.auth.role_add("role")
        client.auth.role_grant_permission("role", "k", Access.READ, end="l")
        client.auth.user_grant_role("erin", "role")
        assert client.auth.user_get("erin").roles == ("role",)
        (granted,) = client.auth.role_get("role").permissions
        assert granted == Permission(access=Access.READ, key=b"k", end=b"l")
        client.auth.role_revoke_permission("role", "k", end="l")
        client.auth.user_revoke_role("erin", "role")
        assert client.auth.role_list() == ("opener", "role")
        client.auth.role_delete("role")
        client.auth.user_delete("erin")
        assert client.auth.user_list() == ("alice", "root")
    with connect(store.endpoint, user=USER, password=PASSWORD) as client:
        with pytest.raises(coord.PermissionDenied):
            client.auth.disable()
        with pytest.raises(coord.PermissionDenied):
            client.auth.user_list()
    assert "coord.sync.Auth" in repr(client.auth)
