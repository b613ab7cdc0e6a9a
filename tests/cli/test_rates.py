"""``coord rate``: permits for scripts."""

from __future__ import annotations

import json
import sys

import pytest

from tests.cli.tool import coord
from tests.support.servers import ServerProcess

pytestmark = pytest.mark.processes


def test_permits_for_a_command(shared_coord_server: ServerProcess) -> None:
    endpoint = shared_coord_server.endpoint
    first = coord(
        endpoint,
        "rate",
        "mails",
        "0.001",
        "--burst=3",
        "-n2",
        "--",
        sys.executable,
        "-c",
        "print(7)",
    )
    assert (first.returncode, first.stdout, first.stderr) == (0, "7\n", "")
    shown = coord(endpoint, "rate", "mails", "--list")
    assert shown.stdout == "strict: 0.001 per second, 3 at once, 1 available\n"
    failed = coord(
        endpoint, "rate", "mails", "0.001", "--burst=3", "--", sys.executable, "-c", "exit(9)"
    )
    assert failed.returncode == 9
    tried = coord(endpoint, "rate", "mails", "0.001", "--burst=3", "--try", "--", "true")
    assert (tried.returncode, tried.stdout) == (1, "")
    assert tried.stderr == "Error: rate limiter mails has no permit now\n"
    waited = coord(endpoint, "rate", "mails", "0.001", "--burst=3", "--timeout=50ms")
    assert waited.returncode == 1
    assert "the next permit is" in waited.stderr
    other = coord(endpoint, "rate", "mails", "5")
    assert other.returncode == 1
    assert "allows 0.001 per second and 3 at once, not 5 and 5" in other.stderr
    changed = coord(endpoint, "rate", "mails", "1000", "--burst=5", "--mode=strict", "--set")
    assert (changed.returncode, changed.stdout, changed.stderr) == (0, "", "")
    told = json.loads(coord(endpoint, "rate", "mails", "--list", "-w", "json").stdout)
    assert (told["mode"], told["rate"], told["burst"]) == ("strict", 1000, 5)
    assert told["members"] == []
    missing = coord(endpoint, "rate", "mails", "1000", "--burst=5", "--", "no-such-command")
    assert (missing.returncode, missing.stderr) == (
        127,
        "Error: no-such-command: command not found\n",
    )


@pytest.mark.parametrize(
    "words",
    [
        ["rate"],
        ["rate", "a"],
        ["rate", "a", "1", "b"],
        ["rate", "a", "fast"],
        ["rate", "a", "--set"],
        ["rate", "a", "1", "--try", "--timeout=1s"],
        ["rate", "a", "--list", "--", "true"],
        ["rate", "a", "0"],
        ["rate", "a", "1", "-n", "0"],
    ],
    ids=" ".join,
)
def test_what_makes_no_sense(shared_coord_server: ServerProcess, words: list[str]) -> None:
    done = coord(shared_coord_server.endpoint, *words)
    assert done.returncode != 0
    assert done.stdout == ""
    assert done.stderr.startswith("Error: ")
