"""What the plugin costs suites that do not use it: nothing that is slow is loaded; and pytest is needed by it alone."""

from __future__ import annotations

import subprocess
import sys

import pytest

import coord.testing
from tests.architecture.test_import_cost import SLOW
from tests.plugin.suites import RunSuite

LISTS = """
import sys

def pytest_collection_finish():
    for name in sorted(sys.modules):
        if name.partition(".")[0] in {"coord", "coord_server"} or name in SLOW:
            print("loaded", name)

SLOW = {
"""


def test_collecting_loads_only_the_plugin(suite: RunSuite, pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        LISTS.rstrip("{\n ") + f" {set(SLOW) | {'google.protobuf', 'uvloop'}!r}\n"
    )
    result = suite("def test_one(coord_server): pass", "--collect-only", "-q")
    loaded = {
        line.removeprefix("loaded ") for line in result.outlines if line.startswith("loaded ")
    }
    strangers = {name for name in loaded if not name.startswith("coord.testing.plugin")}
    assert "coord.testing.plugin" in loaded
    assert strangers == {"coord", "coord._homes", "coord._version", "coord.testing"}


def test_helpers_work_without_pytest() -> None:
    program = """
import sys
sys.modules["pytest"] = None  # importing it fails
import coord.sync
import coord.testing
with coord.testing.MemoryWorld() as world:
    world.connect_sync().put("k", "v")
with coord.testing.server() as server, coord.sync.connect(server.url) as client:
    client.put("k", "v")
coord.testing.Faults().drop_request("Put")
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_all_names_are_there() -> None:
    assert sorted(coord.testing.__all__) == dir(coord.testing)
    for name in coord.testing.__all__:
        assert getattr(coord.testing, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = coord.testing.nothing


def test_a_program_that_has_coord_may_run_pytest(
    suite: RunSuite, pytester: pytest.Pytester
) -> None:
    # pytest would like to rewrite the assertions of all packages with a plugin, and warns when it is too late.
    suite("def test_one(coord_memory_sync_client): pass").assert_outcomes(passed=1)
    program = (
        "import coord, coord_server, coord.testing, pytest, sys; sys.exit(pytest.main(['-q']))"
    )
    done = pytester.run(sys.executable, "-c", program)
    done.assert_outcomes(passed=1)
    assert done.ret == 0
