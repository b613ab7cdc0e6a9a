"""Who a client says it is: what goes together, what does not, and that no secret is ever shown."""

from __future__ import annotations

import asyncio
import gc
import logging
import traceback
from collections.abc import Iterator
from typing import Any

import pytest

import coord
import coord.sync
from coord.core import Carrier
from coord.credentials import Credentials, Password
from coord.target import parse_target
from tests.sdk.auth_stores import PASSWORD, USER, etcd_with_users
from tests.sdk.conftest import CARRIERS
from tests.support.servers import ServerProcess, free_port
from tests.support.telemetry import Listener, listening

CANARY = "canary-7f3a"


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COORD_USER", "COORD_PASSWORD", "COORD_ENDPOINTS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def listener() -> Iterator[Listener]:
    with listening() as made:
        yield made


def given(
    endpoints: str = "h:1",
    *,
    user: str | None = None,
    password: Password | None = None,
    token: str | None = None,
) -> Credentials | None:
    connecting = coord.connect(endpoints, user=user, password=password, token=token)
    return connecting._options.credentials


def test_arguments() -> None:
    assert given() is None
    assert given(user="u", password="p") == Credentials(user="u", password="p")
    assert given(token="t.1") == Credentials(token="t.1")
    assert given("local:", user="u", password="p") == Credentials(user="u", password="p")


@pytest.mark.parametrize(
    ("url", "user", "password"),
    [
        ("etcd://u:p@h", "u", "p"),
        ("etcd+tls://u:p@h:1,i:2?timeout=3", "u", "p"),
        ("etcd://u%40x:p%3A%2F%3F%23%40%25%2C@h", "u@x", "p:/?#@%,"),
        ("etcd://u:p:q@h", "u", "p:q"),
        ("etcd://u:p,q@h,i", "u", "p,q"),
        ("etcd://%C3%BC:%E2%82%AC@h", "ü", "€"),
    ],
)
def test_urls(url: str, user: str, password: str) -> None:
    assert given(url) == Credentials(user=user, password=password)
    assert "@" not in "".join(e.text for e in parse_target(url).endpoints)


def test_a_password_completes_a_url() -> None:
    assert given("etcd://u@h", password="p") == Credentials(user="u", password="p")
    assert given("etcd://u@h", password=ask) == Credentials(user="u", password=ask)


def ask() -> str:
    return "asked"


def test_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COORD_PASSWORD", "env")
    assert given(user="u") == Credentials(user="u", password="env")
    assert given("etcd://u@h") == Credentials(user="u", password="env")
    assert given("etcd://u:own@h") == Credentials(user="u", password="own")
    with pytest.raises(coord.InvalidArgument, match="COORD_PASSWORD is set without COORD_USER"):
        given()
    monkeypatch.setenv("COORD_USER", "e")
    assert given() == Credentials(user="e", password="env")
    assert given(user="u", password="p") == Credentials(user="u", password="p")
    assert given(token="t") == Credentials(token="t")
    assert given("memory:") is None
    assert given("local:") is None
    monkeypatch.setenv("COORD_PASSWORD", "")
    with pytest.raises(coord.InvalidArgument, match="COORD_USER is given without a password"):
        given()
    monkeypatch.setenv("COORD_ENDPOINTS", "etcd://u:url@h")
    assert coord.connect()._options.credentials == Credentials(user="u", password="url")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"user": "u"}, "user= is given without a password"),
        ({"password": "p"}, "password= is given without user="),
        ({"user": "", "password": "p"}, "user= must be text"),
        ({"user": 1, "password": "p"}, "user= must be text"),
        ({"user": "u", "password": ""}, "password= must be text"),
        ({"user": "u", "password": b"p"}, "password= must be text"),
        ({"user": "u", "password": "p", "token": "t"}, "token= does not go together"),
        ({"user": "u", "token": "t"}, "token= does not go together"),
        ({"token": ""}, "token= must be text"),
        ({"token": b"t"}, "token= must be text"),
        ({"token": "line\nbreak"}, "token= is not printable ASCII"),
        ({"token": " t"}, "token= is not printable ASCII"),
        ({"token": "ü"}, "token= is not printable ASCII"),
        ({"endpoints": "etcd://u:p@h", "user": "u"}, "give it once"),
        ({"endpoints": "etcd://u:p@h", "token": "t"}, "give it once"),
        ({"endpoints": "etcd://u:p@h", "password": "p"}, "give it once"),
        ({"endpoints": "etcd://u@h", "user": "u", "password": "p"}, "give it once"),
        ({"endpoints": "etcd://u@h", "password": ""}, "password= must be text"),
        ({"endpoints": "etcd://:p@h"}, "names no user"),
        ({"endpoints": "etcd://u:@h"}, "the password in the URL is empty"),
        ({"endpoints": "etcd://u@h"}, "user= is given without a password"),
        ({"endpoints": "etcd://%ff:p@h"}, "not percent-encoded UTF-8"),
        ({"endpoints": "memory:", "token": "t"}, "memory: knows no users"),
    ],
)
def test_refused(arguments: dict[str, Any], words: str) -> None:
    whole: dict[str, Any] = {"endpoints": "h:1", **arguments}
    for connect in (coord.connect, coord.sync.connect):
        with pytest.raises(coord.InvalidArgument, match=words):
            connect(**whole)


@pytest.mark.parametrize(
    "text",
    [
        f"http://u:{CANARY}@h:1",
        f"https://u:{CANARY}/@h:1",
        f"http:u:{CANARY}@h:1",
        f"u:{CANARY}@h:1",
        f"redis://:{CANARY}@h:1",
        f"http://u:a,{CANARY}@h:1",
        f"http://u:{CANARY},b@h:1",
        f"etcd:u:{CANARY}@h",
        f"etcd:/u:{CANARY}@h",
        f"etcd://u:{CANARY}/x@h",
        f"etcd://u:x/{CANARY}@h",
        f"etcd://u:x?{CANARY}@h",
        f"etcd://u:x?{CANARY}=1@h",
        f"etcd://u:x#{CANARY}@h",
        f"etcd://u:x@{CANARY}@h",
        f"etcd://u:{CANARY}@h,v:{CANARY}@i",
        f"etcd://u:{CANARY}@h:port",
        f"etcd://u:{CANARY}@h?colour=red",
        f"etcd://u:{CANARY}@",
        f"etcd://:{CANARY}@h",
        f"etcd://%ff:{CANARY}@h",
        f"etcd+tls://u:{CANARY}@h?timeout=soon",
    ],
)
def test_no_message_about_a_target_shows_a_password(text: str) -> None:
    for target in (text, [text]):
        with pytest.raises(coord.InvalidArgument) as caught:
            coord.connect(target)
        shown = "".join(traceback.format_exception(caught.value, limit=0))
        assert CANARY not in shown


def test_no_message_about_arguments_shows_a_secret() -> None:
    wrong: list[dict[str, Any]] = [
        {"password": CANARY},
        {"user": b"u", "password": CANARY},
        {"user": "u", "password": CANARY.encode()},
        {"token": CANARY + "\n"},
        {"token": CANARY, "user": "u"},
        {"endpoints": "memory:", "token": CANARY},
        {"endpoints": "etcd://u:p@h", "password": CANARY},
    ]
    for arguments in wrong:
        whole: dict[str, Any] = {"endpoints": "h:1", **arguments}
        with pytest.raises(coord.InvalidArgument) as caught:
            coord.connect(**whole)
        assert CANARY not in "".join(traceback.format_exception(caught.value, limit=0))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with etcd_with_users(tmp_path_factory.mktemp("etcd-users")) as server:
        yield server


def shown_by(*objects: object) -> str:
    """All that objects of ours show of themselves and of each other, as far as they reach."""
    texts: list[str] = []
    waiting, seen = list(objects), dict[int, object]()
    while waiting:
        each = waiting.pop()
        if id(each) in seen:
            continue
        seen[id(each)] = each
        if type(each).__module__.partition(".")[0] == "coord":
            texts += [repr(each), str(each)]
            waiting += gc.get_referents(each)
        elif isinstance(each, dict | list | tuple | set):
            waiting += gc.get_referents(each)  # pyright: ignore[reportUnknownArgumentType]
    return "\n".join(texts)


@pytest.mark.parametrize("transport", CARRIERS)
@pytest.mark.parametrize("kind", ["password", "url", "token", "right"])
async def test_nothing_that_can_be_seen_shows_a_secret(
    store: ServerProcess,
    transport: Carrier,
    kind: str,
    listener: Listener,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    told: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: told.append(context))
    loop.set_debug(True)
    arguments: dict[str, dict[str, Any]] = {
        "password": {"user": "u", "password": CANARY},
        "url": {"endpoints": f"etcd://u:{CANARY}@{store.endpoint}"},
        "token": {"token": CANARY},
        "right": {"user": USER, "password": PASSWORD},
    }
    chosen: dict[str, Any] = {"endpoints": store.endpoint, **arguments[kind]}
    connecting = coord.connect(**chosen, transport=transport, runtime="inline")
    errors: list[BaseException] = []
    secrets = [CANARY, PASSWORD]
    async with connecting as client, client.watch("shut", start_revision=1) as watch:
        for call in (client.put("shut", "x"), anext(watch)):
            with pytest.raises(coord.PermissionDenied) as caught:
                await call
            errors.append(caught.value)
        core: Any = client._core
        if kind == "right":
            ((_, token),) = core.transport.tokens.current.metadata
            secrets.append(token)
        seen = shown_by(client, core, core.options, connecting)
    dead = f"127.0.0.1:{free_port()}"
    chosen["endpoints"] = f"etcd://u:{CANARY}@{dead}" if kind == "url" else dead
    async with coord.connect(**chosen, transport=transport) as lost:
        with pytest.raises(coord.CoordError) as failed:
            await lost.put("k", "x", timeout=0.2)
        errors.append(failed.value)
        seen += shown_by(lost)
    assert "Credentials" in seen
    seen += "".join(["".join(traceback.format_exception(e)) for e in errors])
    seen += "".join([span.to_json() for span in listener.spans])
    seen += repr(told) + caplog.text + "".join(capfd.readouterr())
    assert listener.spans
    assert [secret for secret in secrets if secret in seen] == []
