"""``coord demo`` tells its story to the end, and leaves nothing behind, also when it is interrupted."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from coord.cli.demo.narrator import ClaimFailed, Narrator
from coord.cli.demo.storage import Entry, FencedFile, StaleTokenError
from tests.cli.tool import COMMAND
from tests.support.servers import clean_environment


def demo(tmp_path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, "demo"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=clean_environment({"TMPDIR": str(tmp_path)}),
    )


@pytest.mark.slow
@pytest.mark.processes
def test_the_whole_story(tmp_path: Path) -> None:
    process = demo(tmp_path)
    family: dict[int, psutil.Process] = {}
    lines: list[str] = []
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line.rstrip())
        if not line.startswith("   [ok] none of the"):
            for child in psutil.Process(process.pid).children(recursive=True):
                family.setdefault(child.pid, child)
    _, errors = process.communicate()
    text = "\n".join(lines)
    assert (process.returncode, errors) == (0, ""), text
    assert lines[-1].startswith("All ")
    assert sum(line.startswith("   [ok] ") for line in lines) >= 20
    assert "FAILED" not in text
    assert len(family) >= 5
    assert [child for child in family.values() if child.is_running()] == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.processes
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("where", ["1. ", "2. ", "3. "])
def test_an_interrupted_story_leaves_nothing(
    tmp_path: Path, number: signal.Signals, where: str
) -> None:
    process = demo(tmp_path)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(where):
            break
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    out, errors = process.communicate()
    assert (process.returncode, errors) == (128 + number, "")
    assert out.rstrip().endswith("interrupted; all processes are ended")
    assert [child for child in family if child.is_running()] == []
    assert list(tmp_path.iterdir()) == []


def test_the_file_refuses_smaller_tokens(tmp_path: Path) -> None:
    storage = FencedFile(tmp_path / "storage")
    assert storage.read() == 0
    storage.write(1, token=5, writer="a")
    storage.write(2, token=5, writer="a")
    storage.write(3, token=8, writer="b")
    with pytest.raises(StaleTokenError) as caught:
        storage.write(3, token=7, writer="a")
    assert (caught.value.token, caught.value.highest) == (7, 8)
    assert storage.read() == 3
    assert storage.entries()[-1] == Entry(value=3, token=8, writer="b")
    assert len(storage.entries()) == 3


def test_a_claim_that_does_not_hold_ends_the_story(capsys: pytest.CaptureFixture[str]) -> None:
    tell = Narrator()
    tell.check("water is wet", True)
    with pytest.raises(ClaimFailed, match="pigs fly"):
        tell.check("pigs fly", False, found="they walk")
    assert tell.checked == 1
    assert capsys.readouterr().out == "   [ok] water is wet\n"
