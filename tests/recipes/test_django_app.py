"""The Django application, by Django's own test client and in the workers of a server that forks."""

from __future__ import annotations

import io
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

import httpx2
import pytest
from django.core.management import CommandError, call_command
from django.test import Client

import coord
import coord.sync
from recipes import django_app as recipe
from tests.recipes.programs import end, start
from tests.support.servers import ServerProcess

DAY = date(2026, 11, 30)
LOCK = f"{recipe.PREFIX}/reports/{DAY}"
WORKERS = 2


@pytest.fixture(scope="module")
def tables() -> None:
    recipe.make_tables()


@pytest.fixture
def store(tables: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[coord.sync.Client]:
    """The client of this process, on a store of the test's own."""
    monkeypatch.setenv("COORD_ENDPOINTS", "memory:")
    made = recipe.store()
    yield made
    made.close()
    recipe._clients.clear()
    recipe.Report.objects.all().delete()


def nightly() -> str:
    output = io.StringIO()
    call_command(recipe.Command(stdout=output), str(DAY))
    return output.getvalue().rstrip("\n")


def test_a_view_builds_under_the_lock(store: coord.sync.Client) -> None:
    first = Client().post(f"/reports/{DAY}").json()
    second = Client().post(f"/reports/{DAY}").json()
    assert first["token"] < second["token"] == recipe.Report.objects.get(day=DAY).fence


def test_a_view_whose_lock_somebody_has_says_so(store: coord.sync.Client) -> None:
    with store.session() as other, store.mutex(LOCK, session=other).hold(timeout=30):
        assert Client().post(f"/reports/{DAY}").status_code == 409
    assert Client().post(f"/reports/{DAY}").status_code == 200


def test_the_row_refuses_a_view_that_slept(
    store: coord.sync.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = recipe.Report.write

    def too_late(day: date, body: str, token: int) -> None:
        store.delete_prefix(f"{LOCK}/")  # what a lease does when it ends
        with (
            store.session() as other,
            store.mutex(LOCK, session=other).hold(timeout=30) as newer,
        ):
            write(day, "newer", newer.token)
        write(day, body, token)

    monkeypatch.setattr(recipe.Report, "write", too_late)
    answer = Client().post(f"/reports/{DAY}")
    assert (answer.status_code, answer.json()) == (503, {"error": "StaleWriter"})
    assert recipe.Report.objects.get(day=DAY).body == "newer"


def test_the_row_compares_tokens(store: coord.sync.Client) -> None:
    recipe.Report.write(DAY, "seven", 7)
    with pytest.raises(recipe.StaleWriter):
        recipe.Report.write(DAY, "six", 6)
    recipe.Report.write(DAY, "seven again", 7)
    assert recipe.Report.objects.get(day=DAY).body == "seven again"


def test_the_command_does_its_work_once(store: coord.sync.Client) -> None:
    assert [nightly(), nightly()] == ["the command: done", "the command: done elsewhere"]


def test_a_command_that_lost_its_lock_leaves_the_work_to_the_next(
    store: coord.sync.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = recipe.build

    def loses_it(day: date, body: str, *, timeout: float) -> int:
        store.delete_prefix(f"{recipe.PREFIX}/nightly/")
        return build(day, body, timeout=timeout)

    with monkeypatch.context() as patch:
        patch.setattr(recipe, "build", loses_it)
        with pytest.raises((CommandError, coord.LockLost)):
            nightly()
    assert nightly() == "the command: done"


@pytest.mark.processes
def test_workers_forked_from_one_application_stand_in_one_line(
    shared_coord_server: ServerProcess, tmp_path: Path
) -> None:
    database = str(tmp_path / "reports.sqlite3")
    # A path of a socket has at most some hundred characters.
    with tempfile.TemporaryDirectory() as short:
        address = Path(short) / "gunicorn"
        prepare = "import recipes.django_app as app; app.make_tables(); app.store().put('warm', '')"
        server = start(
            *("-c", f"{prepare}\n{SERVE}", str(address), str(WORKERS)),
            endpoint=shared_coord_server.endpoint,
            DJANGO_DATABASE=database,
        )
        try:
            answers = ask(address, server)
        finally:
            end(server)
    assert len({answer["token"] for answer in answers}) == len(answers)
    workers = {answer["process"] for answer in answers}
    assert len(workers) == WORKERS
    assert server.pid not in workers


# With --preload: the parent has loaded the application, and even used its client, before it forks.
SERVE = """
import sys, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # a fork beside threads: that it is safe is the point
from gunicorn.app.wsgiapp import run
words = ["--preload", "--workers", sys.argv[2], "--bind", "unix:" + sys.argv[1], "--log-level", "warning"]
sys.argv = ["gunicorn", *words, "recipes.django_app:application"]
run()
"""


def ask(address: Path, server: subprocess.Popen[str]) -> list[dict[str, int]]:
    """Build reports, as many at a time as there are workers, until each worker has built one."""
    with socket.socket(socket.AF_UNIX) as probe:
        while probe.connect_ex(str(address)):
            assert server.poll() is None, server.communicate()
            time.sleep(0.02)
    answers: list[dict[str, int]] = []
    with ThreadPoolExecutor(WORKERS) as threads:
        while len({answer["process"] for answer in answers}) < WORKERS:
            answers += threads.map(build, [address] * WORKERS)
    return answers


def build(address: Path) -> dict[str, int]:
    """Build a report, in whichever worker takes the connection; another one is there when somebody else builds."""
    with httpx2.Client(transport=httpx2.HTTPTransport(uds=str(address)), timeout=60) as http:
        while (answer := http.post(f"http://django/reports/{DAY}")).status_code == 409:
            pass
    assert answer.status_code == 200, answer.text
    made: dict[str, int] = answer.json()
    return made
