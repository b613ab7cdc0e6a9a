"""What type checkers make of the installed package, seen from a user's project."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.packaging.conftest import run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PROGRAM = '''
"""A user's module: nothing in it may be Any, and nothing in it needs a cast."""

from __future__ import annotations

from typing import assert_type

import coord
import coord.sync


async def main() -> int:
    async with coord.connect("memory:", request_timeout=5) as client:
        put = await client.put("k", "v")
        assert_type(put.revision, int)
        async with client.session(ttl=10) as session, client.mutex("m", session=session).hold() as grant:
            assert_type(grant, coord.MutexGrant)
            done = await grant.txn().when(coord.compare.version("k") == 1).then(coord.op.put("k", "w")).commit()
            assert_type(done.succeeded, bool)
        async with client.watch("k", start_revision=put.revision) as watch:
            async for event in watch:
                assert_type(event.kv.value, bytes)
                return event.revision
    return 0


def blocking() -> bytes | None:
    with coord.sync.connect("memory:") as client, client.election("e").lead("me") as term:
        assert_type(term.token, int)
        found = client.get("k")
        return None if found is None else found.value
'''


def checked(binaries: Path, *command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a type checker of ours as if the environment of ``binaries`` were active."""
    path = f"{binaries}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, "PATH": path, "VIRTUAL_ENV": str(binaries.parent)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_type_of_the_public_interface_is_known(installed: Path, tmp_path: Path) -> None:
    pyright = Path(sys.executable).with_name("pyright")
    command = (pyright, "--verifytypes", "coord", "--ignoreexternal", "--outputjson")
    done = checked(installed, *command, cwd=tmp_path)
    report = json.loads(done.stdout)["typeCompleteness"]
    assert report["exportedSymbolCounts"]["withKnownType"] > 1000
    unknown = [
        f"{symbol['name']}: {diagnostic['message']}"
        for symbol in report["symbols"]
        if symbol["isExported"]
        for diagnostic in symbol["diagnostics"]
        if not diagnostic["message"].startswith(("No docstring", "One or more default values"))
    ]
    assert unknown == []
    assert report["completenessScore"] == 1


def test_a_users_project_is_clean_under_strict_mypy(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    mypy = Path(sys.executable).with_name("mypy")
    command = (mypy, "--strict", "--disallow-any-expr", "--python-executable", installed / "python")
    done = checked(installed, *command, "program.py", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_users_program_runs(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    code = "import asyncio, program; print(asyncio.run(program.main()) > 0, program.blocking())"
    assert run(installed / "python", "-c", code, cwd=tmp_path).split() == ["True", "None"]
