"""What every command understands: the global options, their variables, and how words become values.

As in etcdctl, global options may stand before the command or after it.
A flag wins over its variable; ``COORD_X`` wins over ``ETCDCTL_X``.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import click
from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_CHILD = "coord.child"
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_TRUE = frozenset({"1", "t", "true"})
_FALSE = frozenset({"0", "f", "false"})

EXIT_FAILURE = 1
EXIT_BAD_CONNECTION = 2
EXIT_INVALID_INPUT = 3
EXIT_UNSUPPORTED = 4
EXIT_INTERRUPTED = 5
EXIT_BAD_ARGUMENTS = 128


class CommandFailed(Exception):
    """Ends the command: one line on stderr after ``Error:``, and an exit code (etcdctl's, where it has one)."""

    def __init__(self, text: str, code: int = EXIT_FAILURE) -> None:
        self.code = code
        super().__init__(text)


class BadArguments(CommandFailed):
    """The command line makes no sense."""

    def __init__(self, text: str) -> None:
        super().__init__(text, EXIT_BAD_ARGUMENTS)


@dataclass(slots=True)
class Settings:
    """The global options."""

    endpoints: str | None = None
    write_out: str = "simple"
    hex: bool = False
    cacert: str | None = None
    cert: str | None = None
    key: str | None = None
    insecure_skip_tls_verify: bool = False
    command_timeout: float = 5.0
    dial_timeout: float = 2.0
    debug: bool = False
    user: str | None = field(default=None, repr=False)
    """As it was given, so perhaps with a password."""
    password: str | None = field(default=None, repr=False)
    from_variables: set[str] = field(default_factory=set[str])
    """Which of these came from the environment, not from the command line."""


def duration(word: str) -> float:
    """Return seconds, written as Go does (``1m30s``, ``500ms``) or as a plain number."""
    seconds = 0.0
    if re.fullmatch(r"\d+(\.\d+)?", word):
        seconds = float(word)
    elif not _DURATION.sub("", word):
        seconds = sum(float(number) * _UNITS[unit] for number, unit in _DURATION.findall(word))
    if seconds <= 0:
        raise click.BadParameter(f"{word!r} is not a duration such as 5s, 500ms or 1m30s")
    return seconds


def output_format(word: str) -> str:
    """Check the name of an output format."""
    if word not in ("simple", "json"):
        raise CommandFailed(
            f"no output format {word!r}: there is simple and json", EXIT_UNSUPPORTED
        )
    return word


def _store(ctx: click.Context, param: click.Parameter, value: object) -> None:
    """Keep a global option that was really given; the innermost command is parsed last and wins."""
    given = ctx.get_parameter_source(param.name or "")
    if given in (click.core.ParameterSource.COMMANDLINE, click.core.ParameterSource.ENVIRONMENT):
        settings, name = settings_of(ctx), param.name or ""
        setattr(settings, name, value)
        if given is click.core.ParameterSource.ENVIRONMENT:
            settings.from_variables.add(name)
        else:
            settings.from_variables.discard(name)


@dataclass(frozen=True, slots=True)
class _Global:
    """A global option: its names, its variable (behind the prefix), what it takes, and what it means."""

    names: tuple[str, ...]
    help: str
    metavar: str | None = None
    type: Callable[[str], object] | None = None

    def option(self, *, hidden: bool) -> click.Option:
        variable = self.names[-1].removeprefix("--").replace("-", "_").upper()
        return click.Option(
            self.names,
            help=self.help,
            metavar=self.metavar,
            type=self.type,
            is_flag=self.metavar is None,
            hidden=hidden,
            # A variable is read once, by the outermost group; else it would win over the group's flag.
            envvar=None if hidden else [f"COORD_{variable}", f"ETCDCTL_{variable}"],
            expose_value=False,
            callback=_store,
        )


_GLOBALS = (
    _Global(
        ("--endpoints",),
        "Where the store is: host:port,... or any target of coord.connect()  [default: local:]",
        "LIST",
    ),
    _Global(
        ("-w", "--write-out"),
        "Output format.  [default: simple]",
        "simple|json",
        output_format,
    ),
    _Global(("--hex",), "Print keys and values as hex."),
    _Global(("--cacert",), "Trust the certificates that this CA has signed.", "FILE"),
    _Global(("--cert",), "Show this certificate to the server.", "FILE"),
    _Global(("--key",), "Its private key.", "FILE"),
    _Global(("--insecure-skip-tls-verify",), "Trust any server: for experiments only."),
    _Global(("--user",), "Log in; a password that is missing is asked for.", "NAME[:PASSWORD]"),
    _Global(("--password",), "The password; --user is then the name alone.", "PASSWORD"),
    _Global(("--command-timeout",), "For one request.  [default: 5s]", "DURATION", duration),
    _Global(("--dial-timeout",), "For reaching a server.  [default: 2s]", "DURATION", duration),
    _Global(("--debug",), "Show tracebacks."),
)


def global_options(*, hidden: bool) -> list[click.Parameter]:
    """Make the global options, for the outermost group, or ``hidden`` for each command."""
    return [given.option(hidden=hidden) for given in _GLOBALS]


class Command(click.Command):
    """A command that also takes the global options, and flags with a value (``--prefix=true``) as Go's do."""

    @override
    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return the command's own parameters, and the global ones."""
        return [*super().get_params(ctx), *global_options(hidden=True)]

    @override
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse, after ``--flag=true`` has become ``--flag``."""
        return super().parse_args(ctx, self._plain_flags(ctx, args))

    def _plain_flags(self, ctx: click.Context, args: list[str]) -> list[str]:
        flags = {
            name
            for param in self.get_params(ctx)
            if isinstance(param, click.Option) and param.is_flag
            for name in param.opts
        }
        plain: list[str] = []
        for place, arg in enumerate(args):
            if arg == "--":
                return plain + args[place:]
            name, equals, value = arg.partition("=")
            if not equals or name not in flags:
                plain.append(arg)
            elif value.lower() in _TRUE:
                plain.append(name)
            elif value.lower() not in _FALSE:
                raise BadArguments(f"{name} is true or false, not {value!r}")
        return plain


class Group(click.Group):
    """A group of commands that also takes the global options, and unique beginnings of names."""

    command_class: type[click.Command] | None = Command

    @override
    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return the group's own parameters, and the global ones."""
        return [*super().get_params(ctx), *global_options(hidden=True)]

    @override
    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Find a command by its name or the beginning of it."""
        return super().get_command(ctx, full_name(cmd_name, self.commands) or cmd_name)


def full_name(given: str, names: Iterable[str]) -> str | None:
    """Return the one of ``names`` that ``given`` is, or the only one that begins with it."""
    matches = [name for name in names if name.startswith(given)]
    if given in matches:
        return given
    return matches[0] if len(matches) == 1 else None


class ChildCommand(Command):
    """A command that runs a child: what stands behind ``--`` is the child's command line."""

    @override
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take the child's command line away, and parse the rest."""
        if "--" in args:
            place = args.index("--")
            ctx.meta[_CHILD] = args[place + 1 :]
            args = args[:place]
        return super().parse_args(ctx, args)

    @override
    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """Show the child's place in the usage line."""
        return [*super().collect_usage_pieces(ctx), "[-- COMMAND [ARGS]...]"]


def child_of(ctx: click.Context) -> list[str]:
    """Return the words behind ``--``; empty without it. Raises :class:`BadArguments` when none follow."""
    words: list[str] | None = ctx.meta.get(_CHILD)
    if words is not None and not words:
        raise BadArguments("no command stands behind --")
    return words or []


def settings_of(ctx: click.Context) -> Settings:
    """Return the global options."""
    return ctx.ensure_object(Settings)


def to_bytes(word: str) -> bytes:
    """Return the bytes of an argument, exactly as they were given to this process."""
    return os.fsencode(word)


def parse_lease(word: str) -> int:
    """Parse a lease id, which is written in hex. Raises :class:`BadArguments`."""
    try:
        value = int(word, 16)
    except ValueError:
        value = 1 << 64
    if not -(1 << 63) <= value < 1 << 63:
        raise BadArguments(f"bad lease ID arg ({word!r}), expecting ID in Hex")
    return value
