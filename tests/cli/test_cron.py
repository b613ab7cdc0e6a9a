"""``coord cron``: jobs from a shell, and a command for each tick."""

from __future__ import annotations

import json
import re
import signal
import sys

import pytest

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
    assert done(endpoint, *words, "--replace") == []
    (line,) = done(endpoint, "list", "night")
    assert re.fullmatch(rf"report '0 3 \* \* \*' Europe/Rome {TIME}", line)
    done(endpoint, "pause", "night", "report")
    # The name may stand first.
    assert done(endpoint, "night", "list") == ["report '0 3 * * *' Europe/Rome paused"]
    (shown,) = [json.loads(line) for line in done(endpoint, "list", "night", "-w", "json")]
    assert (shown["job"]["name"], shown["job"]["payload"]) == ("report", "all")
    assert (shown["job"]["paused"], shown["next_tick"], shown["running"]) == (True, None, [])
    done(endpoint, "resume", "night", "report")
    done(endpoint, "remove", "night", "report")
    gone = coord(endpoint, "cron", "remove", "night", "report")
    assert (gone.returncode, gone.stderr) == (1, "Error: cron night has no job report\n")
    bad = coord(endpoint, "cron", "add", "night", "x", "@never")
    assert bad.returncode == 128
    assert bad.stderr.startswith("Error: schedule '@never': ")


@pytest.mark.parametrize("ownership", ["--elected", "--ttl=10"])
def test_a_command_for_each_tick(shared_coord_server: ServerProcess, ownership: str) -> None:
    endpoint, name = shared_coord_server.endpoint, f"serve{ownership}"
    for job, payload in (("good", "all"), ("bad", "")):
        done(endpoint, "add", name, job, "@yearly", f"--payload={payload}")
    program = SHOW + "; sys.exit(os.environ['COORD_CRON_JOB'] == 'bad')"
    with started(endpoint, "cron", "serve", name, ownership, *python(program)) as serving:
        (asked,) = done(endpoint, "run-now", name, "good")
        given, told = json.loads(serving.line())
        assert given == "all"
        assert told.pop("COORD_FENCING_TOKEN").isdigit()
        assert told == {
            "COORD_CRON_JOB": "good",
            "COORD_CRON_TICK": asked,
            "COORD_CRON_ATTEMPT": "1",
        }
        done(endpoint, "run-now", name, "bad")
        assert json.loads(serving.line())[0] == ""
        while not any(" failed " in line for line in done(endpoint, "history", name, "bad")):
            pass
        serving.send(signal.SIGTERM)
        assert serving.end()[0] == 0
    (line,) = done(endpoint, "history", name, "good")
    assert re.fullmatch(rf"{re.escape(asked)} done 1 \d+", line)
    (line,) = done(endpoint, "history", name, "bad")
    assert line.endswith(" 'CommandFailed: exit code 1'")
    (record,) = [json.loads(line) for line in done(endpoint, "history", name, "bad", "-w", "json")]
    assert (record["outcome"], record["attempt"]) == ("failed", 1)


def test_a_signal_ends_what_runs(shared_coord_server: ServerProcess) -> None:
    endpoint = shared_coord_server.endpoint
    done(endpoint, "add", "stop", "j", "@yearly")
    program = "import signal; print('running', flush=True); signal.pause()"
    words = ("cron", "serve", "stop", "--elected", "--grace=100ms", *python(program))
    with started(endpoint, *words) as serving:
        done(endpoint, "run-now", "stop", "j")
        assert serving.line() == "running"
        (line,) = done(endpoint, "list", "stop")
        assert re.search(rf" running {TIME}$", line)
        serving.send(signal.SIGTERM)
        assert serving.end()[0] == 0
    (line,) = done(endpoint, "history", "stop", "j")
    assert re.search(r" lost 1 \d+ 'its scheduler was stopped'$", line)


def test_serve_needs_a_command(shared_coord_server: ServerProcess) -> None:
    ended = coord(shared_coord_server.endpoint, "cron", "serve", "x")
    assert (ended.returncode, ended.stderr) == (128, "Error: serve takes a command after --\n")
