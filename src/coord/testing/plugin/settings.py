"""What a project and a test say about their servers, and what a failed test tells of them."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator

    from coord.testing.local import Server

_MARKER = "coord"
_ARGS = "coord_server_args"
_MEMBERS = "coord_cluster_members"
_LOG_LINES = 40

_servers_of_test = pytest.StashKey[list["Server"]]()


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the server or the cluster of one test is like."""

    args: tuple[str, ...]
    members: int


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the settings of a project."""
    parser.addini(_ARGS, "flags for every coord-server that fixtures start", type="args")
    parser.addini(_MEMBERS, "how many members coord_cluster has", default="3")


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker."""
    config.addinivalue_line(
        "markers",
        f"{_MARKER}(members=3, args=()): what coord_server and coord_cluster are like in this test",
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the last lines of its servers' logs with a test that failed."""
    report = yield
    if report.failed:
        for server in item.stash.get(_servers_of_test, ()):
            lines = server.log_text().splitlines()[-_LOG_LINES:]
            report.sections.append((f"coord-server at {server.url}", "\n".join(lines)))
    return report


def note_server(request: pytest.FixtureRequest, server: Server) -> None:
    """Show the log of ``server`` if the test that asks fails."""
    node: pytest.Item = request.node
    node.stash.setdefault(_servers_of_test, []).append(server)


def project_args(config: pytest.Config) -> tuple[str, ...]:
    """Return the flags that all servers of the project have."""
    return tuple(config.getini(_ARGS))


def settings_of(request: pytest.FixtureRequest) -> Settings:
    """Return what the markers of a test say, the nearest first, and else the project."""
    said: dict[str, object] = {}
    node: pytest.Item = request.node
    for marker in node.iter_markers(_MARKER):
        unknown = sorted(marker.kwargs.keys() - {"args", "members"})
        if unknown or marker.args:
            what = ", ".join(unknown) or "something without a name"
            raise pytest.UsageError(f"@pytest.mark.{_MARKER} takes args= and members=, not {what}")
        said = {**marker.kwargs, **said}
    return Settings(
        args=(*project_args(request.config), *_flags(said.get("args", ()))),
        members=_count(said.get("members", request.config.getini(_MEMBERS))),
    )


def _flags(given: object) -> tuple[str, ...]:
    """Return flags that were given as a line or as a sequence."""
    if isinstance(given, str):
        return tuple(shlex.split(given))
    if isinstance(given, list | tuple):
        return tuple(str(flag) for flag in cast("list[object] | tuple[object, ...]", given))
    raise pytest.UsageError(f"flags are a str or a sequence of str, not {given!r}")


def _count(given: object) -> int:
    text = str(given)
    if not text.isdigit() or not int(text):
        raise pytest.UsageError(f"a cluster has one member or more, not {given!r}")
    return int(text)
