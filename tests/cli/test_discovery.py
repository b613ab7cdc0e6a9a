"""``coord register``, ``coord services``, ``coord members`` and ``coord partitions``."""

from __future__ import annotations

import asyncio
import json
import signal
import sys

import pytest

import coord as sdk
from coord import sync
from tests.cli.tool import coord, started
from tests.support.servers import ServerProcess

pytestmark = pytest.mark.processes

WITHIN_S = 20.0
SHOW = (
    "import json, os; print(json.dumps({k: v for k, v in os.environ.items() if 'INSTANCE' in k}))"
)
SLEEPER = "import signal; print('running', flush=True); signal.pause()"


@pytest.fixture
def endpoint(shared_coord_server: ServerProcess) -> str:
    return shared_coord_server.endpoint


def python(program: str) -> tuple[str, ...]:
    return ("--", sys.executable, "-c", program)


def test_an_instance_is_listed_while_the_command_runs(endpoint: str) -> None:
    options = ("--id=one", "--weight=3", "--zone=eu", "--tag=x", "--tag=y", '--metadata={"a":1}')
    with started(endpoint, "register", "cli/web", "h:80", *options, *python(SLEEPER)) as running:
        assert running.line() == "running"
        shown = coord(endpoint, "services", "cli/w")
        assert (shown.returncode, shown.stderr) == (0, "")
        assert shown.stdout == "cli/web, one, h:80, serving, 3, eu\n"
        (found,) = json.loads(coord(endpoint, "services", "cli/w", "-w", "json").stdout)["cli/web"]
        assert (found["tags"], found["metadata"], found["token"] > 0) == (
            ["x", "y"],
            {"a": 1},
            True,
        )
        running.send(signal.SIGTERM)
        code, _, errors = running.end()
        assert (code, errors) == (128 + signal.SIGTERM, "")
    assert coord(endpoint, "services", "cli/w").stdout == ""


def test_the_command_knows_its_instance_and_its_code_is_passed_on(endpoint: str) -> None:
    done = coord(endpoint, "register", "cli/env", "h:80", *python(SHOW))
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == {"COORD_INSTANCE_ID": "h:80", "COORD_INSTANCE_ADDR": "h:80"}
    done = coord(endpoint, "register", "cli/env", "h:80", *python("raise SystemExit(7)"))
    assert done.returncode == 7


def test_without_a_command_it_is_listed_until_a_signal_and_drains(endpoint: str) -> None:
    with (
        sync.connect(endpoint) as client,
        client.registry("cli/drain").discover() as view,
        started(endpoint, "register", "cli/drain", "h:80", "--drain=700ms") as running,
    ):
        assert running.line() == "cli/drain/h:80"
        assert len(view.wait_for(1, timeout=WITHIN_S)) == 1
        with view.watch() as lists:
            assert next(lists)[0].health == "serving"
            running.send(signal.SIGINT)
            assert next(lists)[0].health == "draining"
            assert next(lists) == ()
        assert running.end() == (0, "", "")


def test_an_id_that_is_taken_is_refused_or_taken_over(endpoint: str) -> None:
    with started(endpoint, "register", "cli/own", "h:1", "--id=a", *python(SLEEPER)) as first:
        assert first.line() == "running"
        refused = coord(endpoint, "register", "cli/own", "h:2", "--id=a", *python(SHOW))
        assert refused.returncode == 1
        assert refused.stderr == ("Error: instance 'a' of service 'cli/own' is registered by h:1\n")
        command = ("register", "cli/own", "h:2", "--id=a", "--takeover", *python(SLEEPER))
        with started(endpoint, *command) as second:
            assert second.line() == "running"
            code, _, errors = first.end()
            assert code == 1
            assert errors.startswith("Error: registration lost: cli/own/a (token ")
            assert errors.endswith("taken over by another\n")
            second.send(signal.SIGTERM)
            second.end()


@pytest.mark.parametrize(
    "words",
    [
        ("register", "only-one"),
        ("register", "s", "h:1", "--metadata=x"),
        ("register", "s", "h:1", "--metadata=[]"),
        ("register", "s", "h:1", "--weight=-1"),
        ("register", "s", "h:1", "--health=ftp://x"),
        ("register", "s", "unix:/run/x"),
    ],
    ids=" ".join,
)
def test_wrong_arguments(endpoint: str, words: tuple[str, ...]) -> None:
    done = coord(endpoint, *words)
    assert done.returncode == 128
    assert done.stderr.startswith("Error: ")


async def test_members_are_shown_and_followed(endpoint: str) -> None:
    async with sdk.connect(endpoint) as client:
        group = client.membership("cli/group")
        async with group.join("a", data={"port": 1}) as one, group.join("b", data=b"raw") as two:
            shown = await asyncio.to_thread(coord, endpoint, "members", "cli/group")
            assert (shown.returncode, shown.stderr) == (0, "")
            assert shown.stdout == f'a, {one.token}, {{"port": 1}}\nb, {two.token}, "raw"\n'
            shown = await asyncio.to_thread(
                coord, endpoint, "members", "cli/group", "--write-out=json"
            )
            assert [each["id"] for each in json.loads(shown.stdout)] == ["a", "b"]
            with started(endpoint, "members", "cli/group", "--watch") as running:
                lines = await asyncio.to_thread(running.lines, 2)
                assert [line.split(", ")[:2] for line in lines] == [
                    ["joined", "a"],
                    ["joined", "b"],
                ]
                await one.update(7)
                assert await asyncio.to_thread(running.line) == f"updated, a, {one.token}, 7"
                await two.leave()
                assert await asyncio.to_thread(running.line) == f'left, b, {two.token}, "raw"'
                running.send(signal.SIGINT)
                assert await asyncio.to_thread(running.end) == (0, "", "")


async def test_partitions_are_shown_with_their_owners(endpoint: str) -> None:
    async with sdk.connect(endpoint) as client:
        partitioner = client.partitioner("cli/parts", ["a", "b"], settle=0, weight=2)
        async with partitioner.run(), asyncio.timeout(WITHIN_S):
            while len(owned := partitioner.owned()) < 2:
                await asyncio.sleep(0.01)
            words = ("partitions", "cli/parts", "a", "c")
            shown = await asyncio.to_thread(coord, endpoint, *words)
            assert (shown.returncode, shown.stderr) == (0, "")
            assert shown.stdout.splitlines() == [
                f"member, {partitioner.id}, 2, 2",
                f"owned, a, {partitioner.id}, {owned['a'].token}",
                f"owned, b, {partitioner.id}, {owned['b'].token}",
                "unowned, c",
            ]
            shown = await asyncio.to_thread(coord, endpoint, *words, "--write-out=json")
            found = json.loads(shown.stdout)
            assert found["unowned"] == ["c"]
            assert found["owners"]["a"] == {"member": partitioner.id, "token": owned["a"].token}
            assert found["members"][0]["weight"] == 2
    done = coord(endpoint, "partitions", "cli/parts", "--count", "3")
    assert done.stdout == "unowned, 0\nunowned, 1\nunowned, 2\n"
    assert coord(endpoint, "partitions", "cli/parts", "a", "--count", "3").returncode == 128
