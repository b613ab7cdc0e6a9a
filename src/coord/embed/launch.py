"""Find the living server of a place, or start it: blocking calls, for a worker thread."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import json
import os
import socket
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, cast

from coord.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from coord.embed.place import Place

START_WITHIN_S = 10.0
"""How long a server may take from its start to its first answer, and how long others wait for who starts it."""
_LOOK_EVERY_S = 0.01
_CONNECT_WITHIN_S = 5.0
# The log of a place is begun anew above this; the one before is kept.
_LOG_MAX_BYTES = 1 << 20
_LOG_TAIL_BYTES = 4096
# What may pile up in front of a server that is busy with its first clients counts as an answer.
_BUSY = (BlockingIOError, TimeoutError)


def ensure_running(place: Place, idle_s: float) -> int | None:
    """Return once a server answers at ``place``: None if there was one, else the pid of the one started here.

    Raises :class:`Unavailable` when none comes up within 10 s.
    """
    try:
        return _ensure_running(place, idle_s)
    except OSError as error:
        raise Unavailable(f"the local server cannot be started: {error}") from error


def _ensure_running(place: Place, idle_s: float) -> int | None:
    if _answers(place.socket):
        return None
    with _locked(place.start_lock):
        # Somebody else may have started it while we waited.
        if _answers(place.socket):
            return None
        _await_old_server(place)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(place.socket)
        return _start(place, idle_s)


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_CONNECT_WITHIN_S)
        try:
            probe.connect(path)
        except _BUSY:
            return True
        except OSError:
            return False
        return True


@contextlib.contextmanager
def _locked(path: str) -> Generator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if not _wait_for(lambda: _try_lock(descriptor)):
            raise Unavailable(
                f"another process has been starting the local server for {START_WITHIN_S:g} s ({path} is locked)"
            )
        yield
    finally:
        os.close(descriptor)  # and with it the lock


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _await_old_server(place: Place) -> None:
    """Wait until nobody holds the data: a server that leaves removes its socket first and the lock last."""
    if not _wait_for(lambda: _is_free(place.data_lock)):
        raise Unavailable(
            f"a process that does not answer at {place.socket} holds the data of the local server in"
            f" {place.data_dir}; its log is {place.log}"
        )


def _is_free(path: str) -> bool:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:  # not there yet; whatever else may be wrong, the server says it better
        return True
    try:
        return _try_lock(descriptor)
    finally:
        os.close(descriptor)


def _start(place: Place, idle_s: float) -> int:
    process = _spawn(place, idle_s)
    # It outlives us, or we outlive it: then somebody must take note of its end.
    threading.Thread(target=process.wait, name="coord-local-server", daemon=True).start()

    def is_settled() -> bool:
        return _answers(place.socket) or process.poll() is not None

    settled = _wait_for(is_settled)
    if settled and _answers(place.socket):
        return process.pid
    if not settled:
        process.kill()
    why = (
        f"it ended with exit code {process.returncode}"
        if settled
        else f"it did not answer within {START_WITHIN_S:g} s"
    )
    raise Unavailable(f"the local server did not start: {why}: {_last_words(place.log)}")


def _spawn(place: Place, idle_s: float) -> subprocess.Popen[bytes]:
    with _open_log(place.log) as log:
        return subprocess.Popen(  # noqa: S603 - our own program, no shell
            [
                sys.executable,
                "-P",  # what lies in the working directory must not become part of the server
                "-m",
                "coord_server",
                "--name=local",
                f"--data-dir={place.data_dir}",
                f"--listen-client-urls=unix://{place.socket}",
                f"--coord-idle-exit={idle_s:.3f}s",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            cwd="/",
            env=_environment(),
            start_new_session=True,  # Ctrl-C in our terminal is not meant for it
            umask=0o077,
        )


def _environment() -> dict[str, str]:
    """Return ours without what would configure the server, which belongs to everybody here."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("COORD_", "ETCD_"))}
    roots = [root for name in ("coord", "coord_server") if (root := _root_of(name))]
    if roots:
        kept["PYTHONPATH"] = os.pathsep.join([*roots, *filter(None, [kept.get("PYTHONPATH")])])
    return kept


def _root_of(package: str) -> str | None:
    """Return where ``package`` was found, unless the child finds it there anyway."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    root = os.path.dirname(os.path.abspath(spec.submodule_search_locations[0]))
    return None if os.path.basename(root) in ("site-packages", "dist-packages") else root


@contextlib.contextmanager
def _open_log(path: str) -> Generator[int]:
    with contextlib.suppress(FileNotFoundError):
        if os.stat(path).st_size > _LOG_MAX_BYTES:
            os.replace(path, f"{path}.old")
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _last_words(path: str) -> str:
    """Return the last line of a log, as a sentence, and where the rest is."""
    try:
        with open(path, "rb") as log:
            log.seek(max(0, os.fstat(log.fileno()).st_size - _LOG_TAIL_BYTES))
            lines = log.read().decode(errors="replace").split("\n")
    except OSError:
        return f"it left no log at {path}"
    line = next((text for text in reversed(lines) if text.strip()), "")
    return f"{_sentence(line) or 'it said nothing'} (log: {path})"


def _sentence(line: str) -> str:
    try:
        entry: object = json.loads(line)
    except ValueError:
        return line.strip()
    if not isinstance(entry, dict) or "msg" not in entry:
        return line.strip()
    words = cast("dict[str, object]", entry)
    return ": ".join(str(words[key]) for key in ("msg", "error") if words.get(key))


def _wait_for(condition: Callable[[], bool]) -> bool:
    """Look every 10 ms, for the time that a start may take; say whether it came true."""
    give_up = time.monotonic() + START_WITHIN_S
    while not condition():
        if time.monotonic() >= give_up:
            return False
        time.sleep(_LOOK_EVERY_S)
    return True
