"""Runs suites as their users would: a pytest of its own, that finds the plugin by its entry point."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RunSuite = Callable[..., pytest.RunResult]


def entry_points() -> str:
    """What an installed wheel says to pytest, as ``entry_points.txt`` has it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [f"{name} = {where}" for name, where in project["entry-points"]["pytest11"].items()]
    return "\n".join(["[pytest11]", *lines, ""])


def install_plugin(site: Path) -> None:
    """Fill ``site`` as a wheel would: both packages, and what tells pytest of the plugin."""
    site.mkdir()
    packages = {"coord": ROOT / "src/coord", "coord_server": ROOT / "src/server/coord_server"}
    for name, source in packages.items():
        (site / name).symlink_to(source)
    metadata = site / "coord_under_test-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: coord-under-test\nVersion: 1\n"
    )
    (metadata / "entry_points.txt").write_text(entry_points())
    # By it, pytest learns which packages come with a plugin.
    (metadata / "RECORD").write_text("".join(f"{name}/__init__.py,,\n" for name in packages))


def run_suite(
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    *options: str,
    settings: Mapping[str, str] | None = None,
) -> pytest.RunResult:
    """Run the test file ``text`` with strict settings and warnings as errors; return what pytest printed."""
    site = pytester.path / "site"
    install_plugin(site)
    monkeypatch.setenv("PYTHONPATH", str(site))
    # As on any other machine: none of what our own run was told.
    for name in [name for name in os.environ if name.startswith(("PYTEST_", "COORD_", "ETCD"))]:
        monkeypatch.delenv(name)
    lines = ["[pytest]", "addopts = --strict-markers --strict-config", "filterwarnings = error"]
    # Else pytest-asyncio itself warns.
    lines += ["asyncio_default_fixture_loop_scope = function"]
    lines += [f"{name} = {value}" for name, value in (settings or {}).items()]
    pytester.makefile(".ini", pytest="\n".join(lines))
    pytester.makepyfile(test_suite=text)
    return pytester.runpytest_subprocess(*options, timeout=100)
