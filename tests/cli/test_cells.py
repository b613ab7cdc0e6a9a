"""``coord counter`` and ``coord config``."""

from __future__ import annotations

import pytest

from tests.cli.tool import coord
from tests.support.servers import ServerProcess

pytestmark = pytest.mark.processes


def test_counter(shared_coord_server: ServerProcess) -> None:
    endpoint = shared_coord_server.endpoint

    def shown(*words: str) -> str:
        done = coord(endpoint, "counter", *words)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    assert shown("get", "cells/hits") == "0\n"
    assert shown("add", "cells/hits") == "1\n"
    assert shown("add", "cells/hits", "41") == "42\n"
    assert shown("add", "cells/hits", "--", "-2") == "40\n"
    assert (
        shown("get", "cells/hits")
        == coord(endpoint, "get", "cells/hits", "--print-value-only").stdout
    )
    assert shown("reset", "cells/hits", "7") == "OK\n"
    assert shown("get", "cells/hits") == "7\n"
    coord(endpoint, "put", "cells/hits", "many")
    done = coord(endpoint, "counter", "add", "cells/hits")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "Error: the counter b'cells/hits' holds no number but b'many'\n"


def test_config(shared_coord_server: ServerProcess) -> None:
    endpoint = shared_coord_server.endpoint

    def shown(*words: str, stdin: str = "") -> str:
        done = coord(endpoint, "config", *words, stdin=stdin)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.rstrip("\n")

    missing = coord(endpoint, "config", "get", "cells/limits")
    assert (missing.returncode, missing.stderr) == (
        1,
        "Error: nobody has published configuration cells/limits\n",
    )
    first = shown("publish", "cells/limits", '{"rate": 5}')
    assert shown("get", "cells/limits") == '{"rate":5}'
    second = shown("publish", "cells/limits", "--expect", first, stdin='{"rate": 6}')
    refused = coord(endpoint, "config", "publish", "cells/limits", "1", "--expect", first)
    assert (refused.returncode, refused.stderr) == (
        1,
        f"Error: b'cells/limits' is at revision {second}, not {first}\n",
    )
    assert shown("history", "cells/limits").splitlines() == [
        f'{second} {{"rate":6}}',
        f'{first} {{"rate":5}}',
    ]
    assert int(shown("publish", "cells/limits", "7", "--canary", "5")) > int(second)
    assert int(shown("rollback", "cells/limits", first)) > int(second)
    assert shown("get", "cells/limits") == '{"rate":5}'
    for words, text in (
        (("publish", "cells/limits", "{"), "Error: the document is no JSON: "),
        (("publish", "cells/limits", "1", "--canary", "1", "--expect", "1"), "Error: give either"),
    ):
        done = coord(endpoint, "config", *words)
        assert done.returncode == 128
        assert done.stderr.startswith(text)


def test_topic(shared_coord_server: ServerProcess) -> None:
    endpoint = shared_coord_server.endpoint

    def shown(*words: str, stdin: str = "") -> tuple[str, str]:
        done = coord(endpoint, "topic", *words, stdin=stdin)
        assert done.returncode == 0
        return done.stdout, done.stderr

    first = int(shown("publish", "cells/topic", "one", "--header", "a=b")[0])
    assert int(shown("publish", "cells/topic", stdin="two")[0]) > first
    subscribe = ("subscribe", "cells/topic", "--count")
    assert shown(*subscribe, "2", "--from", "earliest") == ("one\ntwo\n", "")
    assert shown(*subscribe, "1", "--from", str(first)) == ("two\n", "")
    durable = ("--durable", "d", "--from", "earliest")
    assert shown(*subscribe, "1", *durable) == ("one\n", f"gap: 0 to {first}\n")
    assert shown(*subscribe, "1", *durable) == ("two\n", "")
    for words in (
        ("publish", "cells/topic", "x", "--header", "a"),
        (*subscribe, "1", "--from", "x"),
    ):
        assert coord(endpoint, "topic", *words).returncode == 128
