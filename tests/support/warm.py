"""Processes of the command ``coord`` that begin warm: forked from one that has loaded everything already.

Each is a process of its own, with its own arguments, environment and streams, as if a shell had started it; only the
loading of modules, most of what a short command costs, is done once for all.
``python -m tests.support.warm`` is that one process: it reads requests as lines of JSON, and answers each with a line.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from coord.cli import app, main

ROOT = Path(__file__).parents[2]


# -- the process that is forked ----------------------------------------------------------------------------------------


def serve() -> None:
    """Load what commands need, then fork one for each line of standard input, until that ends."""
    context = click.Context(app.cli)
    for name in app.cli.list_commands(context):
        if name not in ("server", "demo", "cluster"):
            app.cli.get_command(context, name)
    for module in ("coord.client.connecting", "coord.sync", "coord.transport.native", "uvloop"):
        importlib.import_module(module)
    # No threads: one of them could hold a lock at the moment of a fork.
    with selectors.DefaultSelector() as selector:
        selector.register(0, selectors.EVENT_READ)
        text = b""
        while True:
            for key, _ in selector.select():
                if key.fd != 0:
                    selector.unregister(key.fd)
                    os.close(key.fd)
                    _tell_end(*key.data)
                    continue
                more = os.read(0, 1 << 20)
                if not more:
                    return
                *lines, text = (text + more).split(b"\n")
                for line in lines:
                    _take(json.loads(line), selector)


def _take(request: dict[str, Any], selector: selectors.BaseSelector) -> None:
    if "kill" in request:
        os.kill(request["kill"], signal.SIGKILL)
        return
    child = os.fork()
    if not child:
        _run(request)
    print(json.dumps({"id": request["id"], "pid": child}), flush=True)
    ended = os.pidfd_open(child)
    selector.register(ended, selectors.EVENT_READ, (request["id"], child))


def _tell_end(number: int, child: int) -> None:
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(json.dumps({"id": number, "status": status}), flush=True)


def _run(request: dict[str, Any]) -> None:
    code = 1
    try:
        flags = os.O_WRONLY | os.O_CREAT
        for number, (path, how) in enumerate(
            zip(request["streams"], (os.O_RDONLY, flags, flags), strict=True)
        ):
            opened = os.open(path, how)
            os.dup2(opened, number)
            os.close(opened)
        os.environ.clear()
        os.environ.update(request["env"])
        sys.argv = ["coord", *request["words"]]
        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - as a program that ends with a traceback
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


# -- the tests' side ---------------------------------------------------------------------------------------------------


class Warm:
    """The process that is forked, and those that were."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.warm"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        self._lock = threading.Lock()
        self._next = 0
        self._pids: dict[int, int] = {}
        self._ends: dict[int, int] = {}
        self._told = threading.Condition()
        threading.Thread(target=self._listen, daemon=True, name="warm").start()
        atexit.register(self.close)

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            told = json.loads(line)
            with self._told:
                if "pid" in told:
                    self._pids[told["id"]] = told["pid"]
                else:
                    self._ends[told["id"]] = told["status"]
                self._told.notify_all()

    def _ask(self, request: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        with self._lock:
            print(json.dumps(request), file=self._process.stdin, flush=True)

    def run(
        self, words: list[str], *, stdin: str, env: Mapping[str, str], timeout: float
    ) -> subprocess.CompletedProcess[str]:
        """As ``subprocess.run()`` with captured text."""
        with self._lock:
            self._next += 1
            number = self._next
        with tempfile.TemporaryDirectory(prefix="coord-warm-") as folder:
            streams = [Path(folder, name) for name in ("in", "out", "err")]
            streams[0].write_text(stdin)
            request = {"id": number, "words": words, "env": dict(env)}
            self._ask(request | {"streams": [str(path) for path in streams]})
            with self._told:
                ended = self._told.wait_for(lambda: number in self._ends, timeout)
                pid = self._pids.pop(number, None)
            if not ended:
                if pid is not None:
                    self._ask({"kill": pid})
                raise subprocess.TimeoutExpired(words, timeout)
            out, errors = (path.read_text() if path.exists() else "" for path in streams[1:])
            return subprocess.CompletedProcess(words, self._ends.pop(number), out, errors)

    def close(self) -> None:
        """End it."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            self._process.stdin.close()
            self._process.wait(10)


if __name__ == "__main__":
    serve()
