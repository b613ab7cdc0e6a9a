"""Ctrl-C and fork(), which need processes of their own to happen to."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

import coord
import coord.sync
from tests.support.servers import clean_environment

pytestmark = pytest.mark.processes

Start = Callable[[str], AbstractContextManager[subprocess.Popen[str]]]

PRELUDE = """
import os, sys, threading
import coord, coord.sync
def say(word):
    print(word, flush=True)
def say_soon(word):
    # Once this thread waits: before, Ctrl-C may find a coroutine that nobody has awaited yet.
    threading.Timer(0.3, say, [word]).start()
client = coord.sync.connect(sys.argv[1])
prefix = sys.argv[2]
"""


@pytest.fixture
def start(endpoint: str, prefix: str) -> Start:
    """Run a program that has ``client``, ``prefix`` and ``say()``, and must end well by itself."""

    @contextmanager
    def run(program: str) -> Generator[subprocess.Popen[str]]:
        with subprocess.Popen(
            [sys.executable, "-W", "error", "-c", PRELUDE + program, endpoint, prefix],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=clean_environment(),
        ) as process:
            try:
                yield process
                _, errors = process.communicate(timeout=60)
                assert errors == ""
                assert process.returncode == 0
            finally:
                process.kill()

    return run


@pytest.fixture
def observer(endpoint: str) -> Iterator[coord.sync.Client]:
    """A client of the test's own."""
    with coord.sync.connect(endpoint) as client:
        yield client


def line(process: subprocess.Popen[str]) -> str:
    """The next line that the program prints."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_ctrl_c_ends_a_blocked_acquire_and_leaves_no_key(
    start: Start, observer: coord.sync.Client, prefix: str
) -> None:
    program = """
mutex = client.mutex(prefix + "m")
try:
    mutex.acquire()
except KeyboardInterrupt:
    say("interrupted")
sys.stdin.readline()
with mutex.hold(timeout=30):
    say("acquired")
client.close()
"""
    line_of = f"{prefix}m/"
    held = observer.mutex(prefix + "m").acquire(timeout=30)
    with observer.watch(line_of, prefix=True) as changes, start(program) as process:
        waiting = changes.read(timeout=60)
        assert waiting.type is coord.EventType.PUT
        process.send_signal(signal.SIGINT)
        assert line(process) == "interrupted"
        # While the program lives on, and with it its session: the key went by itself.
        gone = changes.read(timeout=30)
        assert (gone.key, gone.type) == (waiting.key, coord.EventType.DELETE)
        assert observer.count(line_of) == 1
        held.release()
        print(file=process.stdin, flush=True)
        assert line(process) == "acquired"
    assert observer.count(line_of) == 0


def test_ctrl_c_in_a_body_releases(start: Start, observer: coord.sync.Client, prefix: str) -> None:
    program = """
import signal
with client:
    try:
        with client.mutex(prefix + "m").hold() as grant:
            say("inside")
            signal.pause()
    except KeyboardInterrupt:
        assert grant.released
        say("outside")
    sys.stdin.readline()
"""
    with start(program) as process:
        assert line(process) == "inside"
        process.send_signal(signal.SIGINT)
        assert line(process) == "outside"
        assert observer.count(f"{prefix}m/") == 0
        print(file=process.stdin, flush=True)


def test_ctrl_c_ends_a_blocked_read_of_a_watch(
    start: Start, observer: coord.sync.Client, prefix: str
) -> None:
    program = """
with client, client.watch(prefix) as watch:
    try:
        say_soon("watching")
        next(watch)
    except KeyboardInterrupt:
        say("interrupted")
    say(next(watch).value.decode())
"""
    with start(program) as process:
        assert line(process) == "watching"
        process.send_signal(signal.SIGINT)
        assert line(process) == "interrupted"
        observer.put(prefix, "still there")
        assert line(process) == "still there"


def test_ctrl_c_ends_an_election_run(
    start: Start, observer: coord.sync.Client, prefix: str
) -> None:
    program = """
with client:
    try:
        client.election(prefix).run(lambda term: say_soon("leading") or term.lost.wait())
    except KeyboardInterrupt:
        say("interrupted")
    sys.stdin.readline()
"""
    with start(program) as process:
        assert line(process) == "leading"
        process.send_signal(signal.SIGINT)
        assert line(process) == "interrupted"
        with pytest.raises(coord.NoLeader):
            observer.election(prefix).leader()
        print(file=process.stdin, flush=True)


def test_a_forked_child_is_told_and_harms_nobody(start: Start) -> None:
    program = """
import traceback, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # fork() and threads: the point of this
grant = client.mutex(prefix + "m").acquire()
session = grant.session
watch = client.watch(prefix + "w")
watch.__enter__()
child = os.fork()
if not child:
    code = 1
    try:
        for call in (
            lambda: client.get("k"), grant.release, session.close, session.orphan, lambda: next(watch)
        ):
            try:
                call()
            except coord.ForkedError as error:
                assert str(os.getppid()) in str(error)
            else:
                raise AssertionError(call)
        watch.close()
        client.close()
        with client.after_fork() as fresh:
            fresh.put(prefix + "w", "from the child")
            assert fresh.mutex(prefix + "m").try_acquire() is None
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)
assert os.waitpid(child, 0)[1] == 0
grant.check()
assert watch.read(timeout=30).value == b"from the child"
assert client.mutex(prefix + "m").holder().token == grant.token
assert grant.release()
watch.close()
client.close()
"""
    with start(program):
        pass
