"""``memory:``, ``local:`` and ``embed.start()``: servers that nobody has to administer."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

import coord
import coord.sync
from coord.core import Placement
from coord.embed import launch, start
from coord.embed.place import Place, find_place
from tests.support.servers import clean_environment


def server_pid(place: Place) -> int:
    """The process that listens at a place."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.connect(place.socket)
        credentials = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return int(struct.unpack("3i", credentials)[0])


@contextlib.contextmanager
def ending_of(pid: int) -> Generator[None]:
    """The block in which a process ends; returns when it has."""
    handle = os.pidfd_open(pid)
    try:
        yield
        assert select.select([handle], [], [], 60)[0] != []
    finally:
        os.close(handle)


def end_server(place: Place, number: signal.Signals = signal.SIGTERM) -> None:
    try:
        pid = server_pid(place)
    except OSError:
        return
    with ending_of(pid):
        os.kill(pid, number)


def starts(place: Place) -> int:
    """How many servers have been started there so far."""
    lines = Path(place.log).read_text().splitlines()
    return sum(json.loads(line)["msg"] == "starting an etcd server" for line in lines)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody leaves by himself unless a test says so."""
    monkeypatch.setenv("COORD_LOCAL_IDLE", "0")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """A place of the test's own, whose server ends with it."""
    found = find_place(str(tmp_path / "place"))
    yield found
    end_server(found)


def target(place: Place) -> str:
    return f"local:{place.directory}"


# memory:


async def test_memory_is_private() -> None:
    async with coord.connect("memory:") as one, coord.connect("memory:") as two:
        await one.put("k", "v")
        assert await two.get("k") is None
        assert one.endpoints == ("memory:",)


@pytest.mark.parametrize("placement", ["thread", "inline"])
async def test_memory_ends_with_its_client(placement: Placement) -> None:
    async with coord.connect("memory:", runtime=placement) as client:
        async with client.mutex("m").hold() as grant:
            assert grant.token > 0
        async with client.watch("k") as watch:
            await client.put("k", "v")
            assert (await anext(watch)).value == b"v"
    with pytest.raises(coord.ClientClosed):
        await client.get("k")


# A server of the test's own process.


async def test_start_serves_on_a_free_port() -> None:
    async with start() as server, coord.connect(server.endpoints) as client:
        await client.put("k", "v")
        assert await client.count("k") == 1
        async with coord.connect(server.endpoints, transport="grpcio") as other:
            assert await other.count("k") == 1


async def test_start_keeps_its_data(tmp_path: Path) -> None:
    directory = str(tmp_path / "data")
    for number in range(2):
        async with start(directory) as server, coord.connect(server.endpoints) as client:
            assert await client.count("k") == number
            await client.put(f"k{number}", "v")


async def test_start_says_why_it_cannot(tmp_path: Path) -> None:
    async with start(str(tmp_path)):
        with pytest.raises(coord.Unavailable, match="the embedded server did not start"):
            async with start(str(tmp_path)):
                pass


# local:


def test_local_is_started_once_and_shared(place: Place) -> None:
    with coord.sync.connect(target(place)) as one:
        one.put("k", "v")
        pid = server_pid(place)
        with coord.sync.connect(target(place)) as two:
            found = two.get("k")
        assert found is not None
        assert found.value == b"v"
        assert server_pid(place) == pid
        assert one.endpoints == (target(place),)
    assert starts(place) == 1


def test_nobody_else_may_come_in(place: Place) -> None:
    with coord.sync.connect(target(place)):
        pass
    for path in (place.directory, place.data_dir, place.socket, place.log):
        assert os.stat(path).st_mode & 0o077 == 0, path


@pytest.mark.processes
def test_eight_processes_at_once_get_one_server(place: Place) -> None:
    program = """
import sys, coord.sync
print("ready", flush=True)
sys.stdin.readline()
with coord.sync.connect(sys.argv[1]) as client:
    for _ in range(5):
        with client.mutex("m").hold(timeout=60):
            found = client.get("n")
            client.put("n", str(int(found.value) + 1 if found else 1))
"""
    workers = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", program, target(place)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=clean_environment({"COORD_LOCAL_IDLE": "0"}),
        )
        for _ in range(8)
    ]
    try:
        for worker in workers:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "ready\n"
        for worker in workers:
            print(file=worker.stdin, flush=True)
        for worker in workers:
            assert worker.communicate(timeout=90) == ("", "")
            assert worker.returncode == 0
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    with coord.sync.connect(target(place)) as client:
        found = client.get("n")
    assert found is not None
    assert found.value == b"40"
    assert starts(place) == 1


def test_a_killed_server_is_started_again_by_the_next(place: Place) -> None:
    with coord.sync.connect(target(place)) as client:
        client.put("k", "v")
    end_server(place, signal.SIGKILL)
    assert os.path.exists(place.socket)  # stale, and so are the lock files
    with coord.sync.connect(target(place)) as client:
        assert client.count("k") == 1
    assert starts(place) == 2


def test_a_client_that_is_there_starts_it_again_too(place: Place) -> None:
    with coord.sync.connect(target(place)) as client:
        revision = client.put("k", "v").revision
        with client.watch("k", start_revision=revision + 1) as watch:
            end_server(place, signal.SIGKILL)
            assert client.count("k") == 1
            client.put("k", "w")
            assert watch.read(timeout=60).value == b"w"
    assert starts(place) == 2


def test_an_idle_server_leaves(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COORD_LOCAL_IDLE", "0.2")
    with coord.sync.connect(target(place)) as client:
        client.put("k", "v")
        leaving = ending_of(server_pid(place))
        leaving.__enter__()
        # Connected clients hold it for as long as they like.
        assert client.count("k") == 1
    leaving.__exit__(None, None, None)
    assert not os.path.exists(place.socket)
    with coord.sync.connect(target(place)) as client:
        assert client.count("k") == 1


@pytest.mark.parametrize("text", ["soon", "-1", "inf", "nan"])
def test_the_idle_time_is_a_number(
    place: Place, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("COORD_LOCAL_IDLE", text)
    with pytest.raises(coord.InvalidArgument, match="COORD_LOCAL_IDLE"):
        coord.sync.connect(target(place))


def test_the_environment_does_not_configure_it(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ETCD_LISTEN_CLIENT_URLS", "nonsense")
    monkeypatch.setenv("COORD_MAX_TXN_OPS", "nonsense")
    with coord.sync.connect(target(place)) as client:
        client.put("k", "v")
        found = client.get("k")
        assert found is not None
        assert found.value == b"v"


def test_it_says_why_it_did_not_start(place: Place) -> None:
    Path(place.data_dir).write_text("in the way")
    with pytest.raises(coord.Unavailable) as caught:
        coord.sync.connect(target(place))
    text = str(caught.value)
    assert "the local server did not start" in text
    assert "cannot use data directory" in text
    assert place.log in text
    assert "Traceback" not in text


def test_a_long_path_has_its_socket_elsewhere(tmp_path: Path) -> None:
    deep = find_place(str(tmp_path / ("x" * 120)))
    assert len(deep.socket) <= 100
    assert not deep.socket.startswith(deep.directory)
    assert find_place(str(tmp_path / ("y" * 120))).socket != deep.socket
    try:
        with coord.sync.connect(target(deep)) as client:
            client.put("k", "v")
        assert os.path.isdir(deep.data_dir)
    finally:
        end_server(deep)
    assert not os.path.exists(deep.socket)


# The place.


def test_the_default_place_is_the_users_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert find_place(None).directory == str(tmp_path / "state" / "coord")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    assert find_place(None).directory == str(tmp_path / "home" / ".local" / "state" / "coord")
    # What differs between a program at a desk and one of cron must not part them.
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    long = str(tmp_path / ("x" * 120))
    assert not find_place(long).socket.startswith(str(tmp_path))


def test_two_names_of_one_directory_are_one_place(tmp_path: Path) -> None:
    found = find_place(str(tmp_path / "place"))
    (tmp_path / "other").symlink_to(tmp_path / "place")
    assert find_place(str(tmp_path / "other")) == found
    assert find_place(f"{tmp_path}/x/../place/") == found


def test_places_that_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(coord.InvalidArgument, match="cannot use directory"):
        find_place(str(file))
    with pytest.raises(coord.InvalidArgument, match="cannot use directory"):
        find_place(str(file / "below"))
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    with pytest.raises(coord.InvalidArgument, match="writable by other users"):
        find_place(str(shared))
    own = tmp_path / "own"
    own.mkdir(mode=0o700)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(coord.InvalidArgument, match="another user"):
        find_place(str(own))


# Starting.


@contextlib.contextmanager
def locked(path: str) -> Generator[Callable[[], None]]:
    """Hold a lock as another process would; yields what lets go of it."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield lambda: fcntl.flock(file, fcntl.LOCK_UN)


def test_a_server_that_still_leaves_is_waited_for(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    asked = threading.Event()
    is_free, spawn = launch._is_free, launch._spawn

    def watched_is_free(path: str) -> bool:
        free = is_free(path)
        if not free:
            asked.set()
        return free

    def watched_spawn(where: Place, idle_s: float) -> subprocess.Popen[bytes]:
        order.append("start")
        return spawn(where, idle_s)

    monkeypatch.setattr(launch, "_is_free", watched_is_free)
    monkeypatch.setattr(launch, "_spawn", watched_spawn)
    with locked(place.data_lock) as let_go:
        starting = threading.Thread(target=launch.ensure_running, args=(place, 0.0))
        starting.start()
        assert asked.wait(60)
        order.append("left")
        let_go()
        starting.join(60)
    assert order == ["left", "start"]
    assert server_pid(place) > 0


def test_waiting_has_an_end(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "START_WITHIN_S", 0.02)
    with (
        locked(place.data_lock),
        pytest.raises(coord.Unavailable, match="holds the data"),
    ):
        launch.ensure_running(place, 0.0)
    with (
        locked(place.start_lock),
        pytest.raises(coord.Unavailable, match="another process has been starting"),
    ):
        launch.ensure_running(place, 0.0)


def test_a_server_that_does_not_answer_is_ended(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[subprocess.Popen[bytes]] = []

    def hang(where: Place, idle_s: float) -> subprocess.Popen[bytes]:
        program = "import signal; signal.pause()"
        started.append(subprocess.Popen([sys.executable, "-c", program]))
        return started[0]

    monkeypatch.setattr(launch, "_spawn", hang)
    monkeypatch.setattr(launch, "START_WITHIN_S", 0.05)
    with pytest.raises(coord.Unavailable, match="did not answer within"):
        launch.ensure_running(place, 0.0)
    assert started[0].wait(60) == -signal.SIGKILL


def test_a_long_log_is_begun_anew(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    Path(place.log).write_text("old\n")
    monkeypatch.setattr(launch, "_LOG_MAX_BYTES", 3)
    with coord.sync.connect(target(place)):
        pass
    assert Path(f"{place.log}.old").read_text() == "old\n"
    assert starts(place) == 1


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ('{"level":"fatal","msg":"cannot run","error":"no room"}', "cannot run: no room"),
        ('{"msg":"gone"}', "gone"),
        ("No module named coord_server", "No module named coord_server"),
        ('"odd"', '"odd"'),
        ("", "it said nothing"),
    ],
)
def test_last_words(tmp_path: Path, line: str, sentence: str) -> None:
    log = tmp_path / "log"
    log.write_text(f"before\n{line}\n" if line else "")
    assert launch._last_words(str(log)) == f"{sentence} (log: {log})"
    log.unlink()
    assert launch._last_words(str(log)) == f"it left no log at {log}"
