"""Users on the command line: what etcdctl does with the same words, and the question for a password."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from coord.cli.app import run
from coord.cli.options import Settings
from tests.cli.tool import COMMAND, coord
from tests.sdk.auth_stores import PASSWORD, PREFIX, ROOT_PASSWORD, USER, etcd_with_users
from tests.support.servers import ServerProcess, clean_environment, etcdctl

pytestmark = [pytest.mark.etcd, pytest.mark.processes]

BOTH = f"{USER}:{PASSWORD}"
WRONG = f"{BOTH}?"
KEY = f"{PREFIX}k"
READ = ("get", KEY)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """An etcd that asks for users."""
    with etcd_with_users(tmp_path_factory.mktemp("etcd")) as server:
        assert etcdctl(server.endpoint, f"--user={BOTH}", "put", KEY, "v").returncode == 0
        yield server


def told(done: subprocess.CompletedProcess[str]) -> tuple[int, str, str]:
    """Exit code, output without etcdctl's question, and the error without its log."""
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    return done.returncode, done.stdout.removeprefix("Password: \n"), "\n".join(errors)


# The words, the variables, standard input.
SAME: dict[str, tuple[tuple[str, ...], dict[str, str], str]] = {
    "name and password": (("--user", BOTH, *READ), {}, ""),
    "behind the command": ((*READ, f"--user={BOTH}"), {}, ""),
    "password apart": (("--user", USER, *READ, "--password", PASSWORD), {}, ""),
    "both whole": (("--user", BOTH, "--password", PASSWORD, *READ), {}, ""),
    "variable": (READ, {"ETCDCTL_USER": BOTH}, ""),
    "two variables": (READ, {"ETCDCTL_USER": USER, "ETCDCTL_PASSWORD": PASSWORD}, ""),
    "flag and variable": (("--user", USER, *READ), {"ETCDCTL_PASSWORD": PASSWORD}, ""),
    "password on standard input": (("--user", USER, *READ), {}, f"{PASSWORD}\n"),
    "without the end of the line": (("--user", USER, *READ), {}, PASSWORD),
    "wrong password": (("--user", WRONG, *READ), {}, ""),
    "wrong on standard input": (("--user", USER, *READ), {}, "x\n"),
    "nobody we know": (("--user", "bob:x", *READ), {}, ""),
    "no user": (READ, {}, ""),
    "password of nobody": (("--password", PASSWORD, *READ), {}, ""),
    "variable of nobody": (READ, {"ETCDCTL_PASSWORD": PASSWORD}, ""),
    "not allowed": (("--user", BOTH, "get", "closed"), {}, ""),
    "write": (("put", f"{PREFIX}w", "1", "--user", BOTH), {}, ""),
    "lease": (("--user", WRONG, "lease", "list"), {}, ""),
    "lock": (("--user", BOTH, "lock", f"{PREFIX}lock", "echo", "held"), {}, ""),
    "lock refused": (("--user", WRONG, "lock", f"{PREFIX}lock", "echo", "held"), {}, ""),
    "election refused": (("--user", WRONG, "elect", f"{PREFIX}e", "x"), {}, ""),
    "watch refused": (("--user", WRONG, "watch", KEY), {}, ""),
    "members": (("--user", BOTH, "member", "list"), {}, ""),
    "status refused": (("--user", WRONG, "endpoint", "status"), {}, ""),
    "health refused": (("--user", WRONG, "endpoint", "health"), {}, ""),
}


@pytest.mark.parametrize("name", SAME)
def test_same_as_etcdctl(store: ServerProcess, name: str) -> None:
    words, env, stdin = SAME[name]
    theirs = told(etcdctl(store.endpoint, *words, env=env, stdin=stdin))
    assert told(coord(store.endpoint, *words, env=env, stdin=stdin)) == theirs


@pytest.mark.parametrize("given", [f"{USER}:", ":x", USER], ids=["empty", "no name", "no answer"])
def test_no_password_ends_it(store: ServerProcess, given: str) -> None:
    theirs = etcdctl(store.endpoint, "--user", given, *READ)
    ours = coord(store.endpoint, "--user", given, *READ)
    # etcdctl goes on as nobody, and is told so by the server.
    assert (ours.returncode, ours.stdout) == (theirs.returncode, "")
    assert "user name is empty" in theirs.stderr
    wanted = "--user names nobody" if given == ":x" else f"no password for user '{USER}'"
    assert ours.stderr == f"Error: {wanted}\n"


def test_health_of_each(store: ServerProcess) -> None:
    done = coord(store.endpoint, "--user", BOTH, "endpoint", "health")
    assert (done.returncode, done.stderr) == (0, "")  # denied, yet it answered
    done = coord(store.endpoint, "--user", WRONG, "endpoint", "health")
    reason = "etcdserver: authentication failed, invalid user ID or password"
    assert done.stderr.splitlines()[0] == (
        f"{store.endpoint} is unhealthy: failed to commit proposal: {reason}"
    )


def test_what_stands_behind_the_password_is_left(store: ServerProcess) -> None:
    text = f"{PASSWORD}\n\nput {PREFIX}t 1\n\n\n"
    assert coord(store.endpoint, "--user", USER, "txn", stdin=text).stdout == "SUCCESS\n\nOK\n"
    put = ("--user", USER, "put", f"{PREFIX}t")
    assert coord(store.endpoint, *put, stdin=f"{PASSWORD}\nthe rest").stdout == "OK\n"
    got = coord(store.endpoint, "--user", BOTH, "get", f"{PREFIX}t", "--print-value-only")
    assert got.stdout == "the rest\n"
    lock = ("--user", USER, "lock", f"{PREFIX}lock", "--", "cat")
    assert coord(store.endpoint, *lock, stdin=f"{PASSWORD}\nthe rest\n").stdout == "the rest\n"


def test_the_user_of_a_url(store: ServerProcess) -> None:
    url = f"etcd://{USER}@{store.endpoint}"
    read = (0, f"{KEY}\nv\n", "")
    assert told(coord(url, *READ, "--password", PASSWORD)) == read
    assert told(coord(url, *READ, stdin=f"{PASSWORD}\n")) == read
    assert told(coord(url, *READ, env={"ETCDCTL_PASSWORD": PASSWORD})) == read
    # Variables yield to what the URL says.
    others = {"ETCDCTL_USER": "root", "COORD_PASSWORD": PASSWORD}
    assert told(coord(url, *READ, env=others)) == read
    whole = f"etcd://root:{ROOT_PASSWORD}@{store.endpoint}"
    others = {"COORD_USER": WRONG, "ETCDCTL_PASSWORD": "x"}
    assert told(coord(whole, *READ, env=others)) == read
    assert (
        told(coord(None, *READ, env={"COORD_ENDPOINTS": url, "COORD_PASSWORD": PASSWORD})) == read
    )
    # Flags do not.
    for flags in (("--user", BOTH), ("--password", PASSWORD)):
        done = coord(whole, *READ, *flags)
        assert (done.returncode, "give it once" in done.stderr) == (128, True)


def test_our_variables_come_first(store: ServerProcess) -> None:
    env = {"COORD_USER": USER, "ETCDCTL_USER": WRONG, "COORD_PASSWORD": PASSWORD}
    assert coord(store.endpoint, *READ, env=env).stdout == f"{KEY}\nv\n"
    env = {"COORD_USER": WRONG}
    assert coord(store.endpoint, *READ, "--user", BOTH, env=env).stdout == f"{KEY}\nv\n"


@pytest.mark.parametrize("name", ["COORD", "ETCDCTL"])
def test_variables_do_not_count_for_a_server_of_ours(name: str) -> None:
    env = {f"{name}_USER": "alice", f"{name}_PASSWORD": "x"}
    assert told(coord("memory:", "put", "k", "v", env=env)) == (0, "OK\n", "")


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, *words: str) -> None:
        self._master, slave = pty.openpty()
        take = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
        self._process = subprocess.Popen(
            [sys.executable, "-c", take, *COMMAND, *words],
            stdin=slave,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=clean_environment(),
            start_new_session=True,
        )
        os.close(slave)

    def shown(self, wanted: bytes) -> None:
        """Wait until the terminal shows it."""
        text = b""
        while wanted not in text:
            assert select.select([self._master], [], [], 30)[0], text
            text += os.read(self._master, 1000)

    @property
    def echoes(self) -> bool:
        return bool(termios.tcgetattr(self._master)[3] & termios.ECHO)

    def type(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def end(self) -> tuple[int, str, str]:
        out, errors = self._process.communicate(timeout=60)
        os.close(self._master)
        return self._process.returncode, out, errors


def test_a_terminal_is_asked_unseen(store: ServerProcess) -> None:
    terminal = Terminal(f"--endpoints={store.endpoint}", "--user", USER, *READ)
    terminal.shown(b"Password: ")
    assert not terminal.echoes
    terminal.type(PASSWORD.encode() + b"\n")
    assert terminal.end() == (0, f"{KEY}\nv\n", "")


@pytest.mark.parametrize(
    ("keys", "outcome"),
    [
        (b"\x03", (128 + signal.SIGINT, "", "\n")),
        (b"\x04", (1, "", f"Error: no password for user '{USER}'\n")),
    ],
    ids=["Ctrl-C", "Ctrl-D"],
)
def test_who_is_asked_may_go(
    store: ServerProcess, keys: bytes, outcome: tuple[int, str, str]
) -> None:
    terminal = Terminal(f"--endpoints={store.endpoint}", "--user", USER, *READ)
    terminal.shown(b"Password: ")
    terminal.type(keys)
    assert terminal.end() == outcome


def test_secrets_are_not_shown(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert PASSWORD not in repr(Settings(user=BOTH, password=PASSWORD))
    where = f"--endpoints=unix:{tmp_path}/nobody"
    words = ["--debug", "--dial-timeout=50ms", where, "--user", BOTH, "get", "k"]
    assert run(words) == 1
    shown = capsys.readouterr()
    assert "store unavailable" in shown.err
    assert PASSWORD not in shown.out + shown.err
