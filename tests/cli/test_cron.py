"""``coord cron``: jobs from a shell, and a command for each tick."""

from __future__ import annotations

import json
import re
import signal
import sys

import pytest

from coord import Job
from coord import sync as sdk
from tests.cli.tool import coord, started
from tests.support.servers import ServerProcess

pytestmark = pytest.mark.processes

SHOW = (
    "import json, os, sys; print(json.dumps([sys.stdin.read(), {k: v for k, v in os.environ.items()"
    " if k.startswith(('COORD_CRON_', 'COORD_FENCING_'))}]), flush=True)"
)
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{3})?Z"


def python(program: str) -> tuple[str, ...]:
    return ("--", sys.executable, "-c", program)


def done(endpoint: str, *words: str) -> list[str]:
    ended = coord(endpoint, "cron", *words)
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout.splitlines()


def test_jobs_from_a_shell(shared_coord_server: ServerProcess) -> None:
    endpoint = shared_coord_server.endpoint
    assert done(endpoint, "list", "night") == []
    words = ("add", "night", "report", "0 3 * * *", "--tz=Europe/Rome", "--payload=all")
    assert done(endpoint, *words) == []
    again = coord(endpoint, "cron", *words)
    assert (again.returncode, again.stderr) == (
        1,
        "Error: cron night has a job report already: --replace\n",
    )
    changed = (
        "add",
        "night",
        "report",
        "0 3 * * *",
        "--tz=Europe/Rome",
        "--payload=all",
        "--replace",
    )
    assert done(endpoint, *changed, "--misfire=all", "--limit=3", "--timeout=5m") == []
    (line,) = done(endpoint, "list", "night")
    assert re.fullmatch(rf"report '0 3 \* \* \*' Europe/Rome {TIME}", line)
    done(endpoint, "pause", "night", "report")
    # The name may stand first.
    assert done(endpoint, "night", "list") == ["report '0 3 * * *' Europe/Rome paused"]
    (shown,) = [json.loads(line) for line in done(endpoint, "list", "night", "-w", "json")]
    assert (shown["job"]["name"], shown["job"]["payload"]) == ("report", "all")
    assert (shown["job"]["misfire_limit"], shown["job"]["timeout"]) == (3, 300.0)
    assert (shown["job"]["paused"], shown["next_tick"], shown["running"]) == (True, None, [])
    done(endpoint, "resume", "night", "report")
    done(endpoint, "remove", "night", "report")
    gone = coord(endpoint, "cron", "remove", "night", "report")
    assert (gone.returncode, gone.stderr) == (1, "Error: cron night has no job report\n")
    bad = coord(endpoint, "cron", "add", "night", "x", "@never")
    assert bad.returncode == 128
    assert bad.stderr.startswith("Error: schedule '@never': ")


def test_a_command_for_each_tick(shared_coord_server: ServerProcess) -> None:
    """Its payload and its environment, its exit code, and its end by a signal."""
    endpoint, name = shared_coord_server.endpoint, "serve"
    program = SHOW + (
        "; job = os.environ['COORD_CRON_JOB']; import signal; job == 'long' and signal.pause()"
        "; sys.exit(job == 'bad')"
    )
    words = ("cron", "serve", name, "--grace=100ms", *python(program))
    with sdk.connect(endpoint) as client, started(endpoint, *words) as serving:
        cron = client.cron(name)
        for job, payload in (("good", "all"), ("bad", None), ("long", {"a": 1})):
            cron.add(Job(name=job, schedule="@yearly", payload=payload))
        (asked,) = done(endpoint, "run-now", name, "good")
        given, told = json.loads(serving.line())
        assert given == "all"
        assert told.pop("COORD_FENCING_TOKEN").isdigit()
        assert told == {
            "COORD_CRON_JOB": "good",
            "COORD_CRON_TICK": asked,
            "COORD_CRON_ATTEMPT": "1",
        }
        for job, read in (("bad", ""), ("long", '{"a": 1}')):
            cron.run_now(job)
            assert json.loads(serving.line())[0] == read
        (_, line, _) = done(endpoint, "list", name)
        assert re.fullmatch(rf"good @yearly UTC {TIME}", line.replace("'", ""))
        assert cron.history("long")[0].outcome == "running"
        serving.send(signal.SIGTERM)
        assert serving.end()[0] == 0
        (record,) = cron.history("long")
        assert (record.outcome, record.error) == ("lost", "its scheduler was stopped")
    (line,) = done(endpoint, "history", name, "good")
    assert re.fullmatch(rf"{re.escape(asked)} done 1 \d+", line)
    (line,) = done(endpoint, "history", name, "bad")
    assert line.endswith(" 'CommandFailed: exit code 1'")


def test_serve_needs_a_command(shared_coord_server: ServerProcess) -> None:
    ended = coord(shared_coord_server.endpoint, "cron", "serve", "x")
    assert (ended.returncode, ended.stderr) == (128, "Error: serve takes a command after --\n")
