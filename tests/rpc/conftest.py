"""Fixtures of the transport's tests."""

from __future__ import annotations

import shutil

import pytest

from tests.rpc.raw_peer import Peer


@pytest.fixture(params=[None, 1, 7], ids=["whole", "bytewise", "sevens"])
def peer(request: pytest.FixtureRequest) -> Peer:
    return Peer(request.param)


_WITHOUT_NODE = pytest.StashKey[int]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the tests with Node out where there is none."""
    if shutil.which("node") and shutil.which("npm"):
        return
    left_out = [item for item in items if item.nodeid.startswith("tests/rpc/test_grpc_js.py")]
    if left_out:
        items[:] = [item for item in items if item not in left_out]
        config.stash[_WITHOUT_NODE] = len(left_out)
        config.hook.pytest_deselected(items=left_out)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Say why tests were left out."""
    count = config.stash.get(_WITHOUT_NODE, 0)
    if count:
        terminalreporter.write_line(
            f"tests/rpc/test_grpc_js.py: {count} deselected: this machine has no node and npm"
        )
