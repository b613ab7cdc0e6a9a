"""The command line as a whole: which commands there are, and how every error ends."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click
from typing_extensions import override

from coord.cli.options import (
    EXIT_BAD_ARGUMENTS,
    EXIT_FAILURE,
    CommandFailed,
    Settings,
    full_name,
    global_options,
)
from coord.cli.program import show_version
from coord.errors import (
    CoordError,
    InvalidArgument,
    PermissionDenied,
    RequestRefused,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

_INTERRUPTED = 130  # 128 + SIGINT, as shells report it
_BROKEN_PIPE = 141  # 128 + SIGPIPE: what a program dies of when its reader has gone


@dataclass(frozen=True, slots=True)
class _Entry:
    """Where a command lives, and what the overview says of it."""

    module: str
    name: str
    summary: str


_COMMANDS = {
    "get": _Entry("keys", "get", "Read a key or a range."),
    "put": _Entry("keys", "put", "Write a key."),
    "del": _Entry("keys", "delete", "Delete a key or a range."),
    "txn": _Entry("transactions", "txn", "Run a transaction that is read from standard input."),
    "watch": _Entry("watches", "watch", "Show changes as they happen."),
    "compaction": _Entry("keys", "compaction", "Forget history below a revision."),
    "lease": _Entry("leases", "lease", "Grant, renew, show and revoke leases."),
    "lock": _Entry("locks", "lock", "Hold a lock, for as long as a command runs."),
    "elect": _Entry("locks", "elect", "Stand for election, or look on."),
    "multilock": _Entry("multi_lock", "multilock", "Hold several locks at once, the same way."),
    "explain": _Entry("explaining", "explain", "Say who holds a name, and who waits for it."),
    "counter": _Entry("cells", "counter", "Read, add to and set shared numbers."),
    "config": _Entry("cells", "config", "Show, publish and roll back configuration."),
    "topic": _Entry("topics", "topic", "Publish messages, and show them."),
    "queue": _Entry("queues", "queue", "Put and take items, work on jobs."),
    "cron": _Entry("cron", "cron", "Schedule jobs, and run a command for each tick."),
    "register": _Entry(
        "discovery", "register", "List an instance of a service while a command runs."
    ),
    "services": _Entry("discovery", "services", "Show services and their instances."),
    "members": _Entry("discovery", "members", "Show the members of a group."),
    "partitions": _Entry("partitions", "partitions", "Show who owns which partition."),
    "barrier": _Entry("gates", "barrier", "Close, open, and wait at a gate."),
    "latch": _Entry("gates", "latch", "Wait until so many have arrived."),
    "status": _Entry("cluster", "status", "Show the state of each endpoint."),
    "endpoint": _Entry("cluster", "endpoint", "State and health of each endpoint."),
    "member": _Entry("cluster", "member", "Show the members of the cluster."),
    "cluster": _Entry(
        "local_cluster.commands", "cluster", "Run a cluster on this machine, and break it."
    ),
    "server": _Entry("program", "server", "Run coord-server; takes its flags."),
    "demo": _Entry("program", "demo", "Show locks, failover and fencing on real processes."),
    "completion": _Entry("program", "completion", "Print the completion script for a shell."),
    "version": _Entry("program", "version", "Print versions."),
    "rwlock": _Entry("shares", "rwlock", "Hold a read-write lock, while a command runs."),
    "rate": _Entry("rates", "rate", "Wait for a permit per second, then run a command."),
    "semaphore": _Entry("shares", "semaphore", "Hold permits, while a command runs."),
}


class _Overview(click.Group):
    """Loads a command when it is called, and takes unique beginnings of names as etcdctl does."""

    @override
    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name the commands, in the order of the overview."""
        return list(_COMMANDS)

    @override
    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load a command."""
        name = full_name(cmd_name, _COMMANDS)
        if name is None:
            return None
        entry = _COMMANDS[name]
        module = importlib.import_module(f"coord.cli.{entry.module}")
        command: click.Command = getattr(module, entry.name)
        return command

    @override
    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the overview, without loading anything."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in _COMMANDS.items()])


@click.group(
    cls=_Overview,
    params=[
        *global_options(hidden=False),
        click.Option(
            ["--version"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=show_version,
            help="Print versions.",
        ),
    ],
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=(
        "Exit codes: 0 done, 1 failed, 2 no usable connection (refused logins, lease renewals), 3 unreadable input, "
        "4 unsupported, 5 ended by the server, 128 wrong arguments, 130 Ctrl-C; lock, elect, rwlock, semaphore and "
        "register pass on the code of the command they run."
    ),
)
def cli() -> None:
    """Coordination from a shell: keys, watches, leases, locks and elections on any etcd v3 store.

    Commands, flags and outputs are etcdctl's where it has the same command. Flags may follow arguments.
    """


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code; every error is one line on stderr."""
    settings = Settings()
    try:
        words = None if arguments is None else list(arguments)
        result = cli.main(words, prog_name="coord", standalone_mode=False, obj=settings)
        sys.stdout.flush()
    except (KeyboardInterrupt, click.Abort):
        return _INTERRUPTED
    except BrokenPipeError:
        # Nobody reads on: let the interpreter's own flush at exit fail silently, too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    except Exception as error:  # noqa: BLE001 - the program's last line of defence: one line, no traceback
        return _report(error, debug=settings.debug)
    return result if isinstance(result, int) else 0


def _report(error: Exception, *, debug: bool) -> int:
    """Print one line about ``error`` and return the exit code for it."""
    hint = ""
    match error:
        case CommandFailed():
            text, code = str(error), error.code
        case click.exceptions.NoArgsIsHelpError():
            click.echo(error.format_message())
            return 0
        case click.UsageError():
            text, code = error.format_message(), EXIT_BAD_ARGUMENTS
            path = error.ctx.command_path if error.ctx is not None else "coord"
            hint = f"Try '{path} --help'."
        case click.ClickException():
            text, code = error.format_message(), EXIT_FAILURE
        case RequestRefused() | PermissionDenied():
            text, code = error.message, EXIT_FAILURE
        case InvalidArgument():
            text, code = str(error), EXIT_BAD_ARGUMENTS
        case CoordError():
            text, code = str(error), EXIT_FAILURE
        case OSError():
            text, code = _of_system(error), EXIT_FAILURE
        case _:
            text, code = f"unexpected {type(error).__name__}: {error}", EXIT_FAILURE
            hint = "This is a bug; --debug shows where it happened."
    if debug:
        traceback.print_exception(error)
    line = " ".join(text.split())
    print(f"Error: {line}" + (f"\n{hint}" if hint else ""), file=sys.stderr)  # noqa: T201
    return code


def _of_system(error: OSError) -> str:
    text = error.strerror or str(error)
    return f"{error.filename}: {text}" if error.filename else text
