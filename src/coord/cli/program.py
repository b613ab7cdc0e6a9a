"""Commands about the program itself: ``server``, ``demo``, ``version`` and ``completion``."""

from __future__ import annotations

import platform
from importlib import metadata

import click
from click.shell_completion import get_completion_class

from coord import __version__
from coord.cli.options import BadArguments, Command

_API_VERSION = "3.5"  # the release of etcd's API that commands and outputs follow
_SHELLS = ("bash", "zsh", "fish")


@click.command(
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def server(words: tuple[str, ...]) -> int:
    """Run coord-server with these flags; see `coord server --help`."""
    from coord_server.__main__ import main

    return main(words)


@click.command(cls=Command)
def demo() -> int:
    """Show the promises on real processes: a server, workers, kill -9, SIGSTOP; takes 20 seconds.

    Needs nothing and leaves nothing behind. Exit code 0 only if every claim was checked and held.
    """
    from coord.cli.demo.story import run

    return run()


def version_text() -> str:
    """Return the versions that a bug report needs."""
    python = f"{platform.python_implementation()} {platform.python_version()}"
    libraries = ", ".join(f"{name} {_installed(name)}" for name in ("protobuf", "lmdb"))
    return (
        f"coord version: {__version__}\nAPI version: {_API_VERSION}\n"
        f"Python: {python}, {libraries}\nOS: {platform.system()} {platform.release()} {platform.machine()}"
    )


def _installed(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "missing"


def show_version(ctx: click.Context, _: click.Parameter, value: object) -> None:
    """Print the versions and end, for ``--version``."""
    if value and not ctx.resilient_parsing:
        click.echo(version_text())
        ctx.exit()


@click.command(cls=Command)
def version() -> None:
    """Print the version of this program and of the API that it speaks."""
    click.echo(version_text())


@click.command(cls=Command)
@click.argument("shell", metavar="bash|zsh|fish")
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    r"""Print the completion script for a shell.

    \b
    bash:  source <(coord completion bash)
    zsh:   source <(coord completion zsh)
    fish:  coord completion fish | source
    """
    maker = get_completion_class(shell) if shell in _SHELLS else None
    if maker is None:
        raise BadArguments(f"no completion for {shell!r}: there is {', '.join(_SHELLS)}")
    outermost = ctx.find_root().command
    click.echo(maker(outermost, {}, "coord", "_COORD_COMPLETE").source())
