"""The wheel is the product: what lies in it, and that it works where nothing else is installed."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from tests.packaging.conftest import run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def members(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_the_top_level_is_exactly_the_two_packages(wheel: Path) -> None:
    top = {name.partition("/")[0] for name in members(wheel)}
    assert {name for name in top if not name.endswith(".dist-info")} == {"coord", "coord_server"}
    assert len(top) == 3


def test_data_files_are_in(wheel: Path) -> None:
    assert wheel.name.endswith("-py3-none-any.whl")
    assert {
        "coord/py.typed",
        "coord_server/py.typed",
        "coord/wire/descriptors.bin",
    } <= set(members(wheel))


def test_both_commands_run_from_the_wheel(installed: Path, wheel: Path) -> None:
    version = wheel.name.split("-")[1]
    assert version in run(installed / "coord", "--version", cwd=installed)
    assert version in run(installed / "coord-server", "--version", cwd=installed)


def test_both_packages_import_from_the_wheel(installed: Path) -> None:
    shown = run(
        installed / "python",
        "-c",
        "import coord, coord_server; print(coord.__version__ == coord_server.__version__)",
        cwd=installed,
    )
    assert shown.split() == ["True"]
