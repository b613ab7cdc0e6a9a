"""What every test shares: how hard hypothesis tries, and where its failures are told."""

from __future__ import annotations

import gc
import os
import signal
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Deadlines measure the machine, not the code. A busy machine generates slowly, which is no failure either.
settings.register_profile(
    "unit", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("thorough", parent=settings.get_profile("unit"), max_examples=2000)
settings.register_profile(
    "ci", parent=settings.get_profile("unit"), derandomize=True, print_blob=True
)
settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "unit")
)

# A shell starts background jobs with SIGINT ignored, and every process that tests start would inherit that.
if (
    threading.current_thread() is threading.main_thread()
    and signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Collecting makes nothing but what stays: searching it for garbage, again and again, took half of the time.
gc.disable()

pytest_plugins = ["tests.support.fixtures", "pytester"]

# Files that take minutes begin first: one of them begun last would keep one worker busy while the others wait.
_LONG = (
    "compat/test_check_perf.py",
    "sdk/test_lame_members.py",
    "server/raft/test_search.py",
    "chaos",
    "cluster",
    "faultruns",
    "plugin",
    "simulation",
    "packaging",
    "interop",
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is for later, and order the files for several workers; within a file nothing changes."""
    if not os.environ.get("COORD_TEST_LATER"):
        later = [item for item in items if item.get_closest_marker("later")]
        if later:
            config.hook.pytest_deselected(items=later)
            items[:] = [item for item in items if not item.get_closest_marker("later")]
    here = Path(__file__).parent
    if getattr(config.option, "numprocesses", None) or hasattr(config, "workerinput"):
        items.sort(key=lambda item: not item.path.is_relative_to(here) or not _is_long(item, here))


def pytest_collection_finish() -> None:
    """Keep what is there for good out of every later search for garbage: thousands of tests, and their modules."""
    gc.freeze()
    gc.enable()


def _is_long(item: pytest.Item, here: Path) -> bool:
    return item.path.relative_to(here).as_posix().startswith(_LONG)
