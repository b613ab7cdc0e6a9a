"""The program ``coord-server``: arguments, signals, exit codes.

Exit codes: 0 after a clean stop (SIGTERM, SIGINT, idle exit, ``--version``, ``--help``), 1 if it cannot
start or go on, 2 for a flag that does not exist or a value that it cannot take. Each failure is one
line on stderr; a traceback would be a bug.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import resource
import signal
import sys
from typing import TYPE_CHECKING, Final

from coord.runtime import new_loop, start_task
from coord_server import disk_trouble, failpoints
from coord_server.config import Config, ConfigError, UsageError, load
from coord_server.usage import help_text, version_text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TextIO

    from coord_server.env import ServerEnv
    from coord_server.log import Log
    from coord_server.server import Server

_IDLE_CHECK_S: Final = 0.25
# Python's 5 ms is half a hundred puts; measured, a tenth of it takes the 99th percentile of lone puts
# from 2.9 to 1.1 ms while the backend is written, and costs no throughput.
_SWITCH_S: Final = 0.0005


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the server until it is told to stop; return the exit code."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    flags = {word.lstrip("-") for word in words if word.startswith("-")}
    if "version" in flags:
        sys.stdout.write(version_text())
        return 0
    if flags & {"help", "h"}:
        sys.stdout.write(help_text())
        return 0
    try:
        config = load(words, os.environ, _read_file)
        write = _open_outputs(config.log_outputs)
    except UsageError as error:
        return _complain(error, 2)
    except (ConfigError, OSError) as error:
        return _complain(error, 1)
    return _run(config, write)


def _complain(error: Exception, code: int) -> int:
    sys.stderr.write(f"coord-server: {' '.join(str(error).split())}\n")
    return code


def _read_file(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _open_outputs(names: Sequence[str]) -> Callable[[str], None]:
    """Return what writes a line to every log output. Raises OSError for a file that cannot be opened."""
    streams: list[TextIO] = []
    for name in names:
        if name in {"default", "stderr"}:
            streams.append(sys.stderr)
        elif name == "stdout":
            streams.append(sys.stdout)
        elif name != "/dev/null":
            streams.append(open(name, "a", encoding="utf-8", buffering=1))  # noqa: SIM115 - open until exit

    def write(line: str) -> None:
        for stream in streams:
            # A reader that has gone, or a full disk: the server matters more than its log.
            with contextlib.suppress(OSError, ValueError):
                stream.write(line)
                stream.flush()

    return write


def _run(config: Config, write: Callable[[str], None]) -> int:
    # Late: --version and --help need none of it, and a wrong flag is told at once.
    from coord_server.env import real_server_env
    from coord_server.log import Log

    env = real_server_env()
    log = Log(clock=env.clock, write=write, level=config.log_level)
    try:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            return runner.run(_serve(config, env, log))
    except KeyboardInterrupt:
        # Before the server was ready: there is nothing to drain.
        return 128 + signal.SIGINT
    except Exception as error:  # noqa: BLE001 - the program's last line of defence: one line, no traceback
        log.fatal(
            "cannot run",
            kind=type(error).__name__,
            error=str(error),
            **disk_trouble.reason(error, config.data_path),
        )
        return 1


async def _serve(config: Config, env: ServerEnv, log: Log) -> int:
    from coord_server.server import Server

    # Places exist once the modules that have them are loaded.
    failpoints.configure(os.environ.get("COORD_SERVER_FAILPOINTS", ""))
    stop = asyncio.Event()
    failed = False

    def on_fatal(_error: BaseException) -> None:
        nonlocal failed
        failed = True
        stop.set()

    server = Server(config, env, log, on_fatal=on_fatal, on_removed=stop.set)
    _handle_signals(stop, log)
    if not await _started(server, stop):
        return 1 if failed else 0
    _tune_process()
    _write_address_file(config, env, server)
    async with asyncio.TaskGroup() as group:
        if config.idle_exit_s:
            group.create_task(_exit_when_idle(config, env, server, stop, log))
        await stop.wait()
    await server.stop()
    return 1 if failed else 0


async def _started(server: Server, stop: asyncio.Event) -> bool:
    """Start the server, which takes as long as the cluster has no leader; False if told to stop before."""
    starting = start_task(server.start(), name="start")
    stopping = start_task(stop.wait(), name="stop")
    await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not starting.done():
        starting.cancel()
        await asyncio.wait({starting})
    if starting.cancelled():
        return False
    starting.result()
    return True


def _handle_signals(stop: asyncio.Event, log: Log) -> None:
    """Stop on SIGTERM and SIGINT; a second one ends the process on the spot."""
    loop = asyncio.get_running_loop()

    def on_signal(number: signal.Signals) -> None:
        if stop.is_set():
            os._exit(128 + number)
        log.info("received signal; shutting down", signal=number.name)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)


def _tune_process() -> None:
    """Set what only the owner of a process may set; an embedded server leaves it alone."""
    # What is loaded by now stays to the end: out of the collector's sight.
    gc.collect()
    gc.freeze()
    # While the other thread writes to the backend, the loop waits this long for its turn.
    sys.setswitchinterval(_SWITCH_S)
    # A connection is a file, and the usual soft limit of 1024 is for programs that use select().
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _write_address_file(config: Config, env: ServerEnv, server: Server) -> None:
    if config.address_file:
        content = {
            "client_urls": list(server.client_urls),
            "member_id": f"{server.member_id:x}",
            "pid": os.getpid(),
        }
        env.disk.write_file_atomic(config.address_file, (json.dumps(content) + "\n").encode())


async def _exit_when_idle(
    config: Config, env: ServerEnv, server: Server, stop: asyncio.Event, log: Log
) -> None:
    """Set ``stop`` once nobody has been connected for the configured time; end when it is set."""
    since = env.clock.mono()
    step = min(_IDLE_CHECK_S, config.idle_exit_s / 4)
    while not stop.is_set():
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(step):
                await stop.wait()
        now = env.clock.mono()
        if server.connection_count:
            since = now
        elif now - since >= config.idle_exit_s and not stop.is_set():
            log.info("no client for a while; shutting down", idle_s=config.idle_exit_s)
            stop.set()
