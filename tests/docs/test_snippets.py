"""What the documentation shows runs, and prints what it says; what it points at exists."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, ROOT, RUN, SHOWN, Block, blocks, fits, named, steps
from tests.docs.run_page import MARK
from tests.support.servers import ServerProcess, clean_environment
from tools.site.stage import made_pages

LINK = re.compile(r"\]\((?!https?://|#)([^)#\s]+)[^)\s]*\)")
TEST_PATH = re.compile(r"`(tests/[\w/.-]+)`")
WITHIN_S = 100
# How many blocks of a page are shown and not run: each says why in a comment, and each is a promise that nobody checks.
NOT_RUN = {
    "README.md": 1,
    "docs/contributing.md": 1,
    "docs/guides/deploying.md": 1,
    "docs/guides/sync.md": 1,
    "docs/index.md": 1,
    "docs/tutorial.md": 1,
}


def test_the_readme_has_a_program() -> None:
    assert [block for block in steps(ROOT / "README.md") if block.language == "python"]


@pytest.mark.processes
@pytest.mark.parametrize("page", [page for page in PAGES if steps(page)], ids=named)
def test_page_runs(page: Path, coord_server: ServerProcess, tmp_path: Path) -> None:
    run_page(page, coord_server, tmp_path / "page")


def run_page(page: Path, server: ServerProcess, directory: Path) -> None:
    """Run the steps of a page in ``directory``, and compare what they print."""
    directory.mkdir()
    run: list[Block] = []
    for block in steps(page):
        if block.title is None:
            run.append(block)
        else:
            (directory / block.title).write_text(block.text, "utf-8")
    with subprocess.Popen(
        [sys.executable, "-W", "error", str(ROOT / "tests" / "docs" / "run_page.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=directory,
        env=environment(server.endpoint),
        start_new_session=True,
    ) as process:
        try:
            steps_of_it = json.dumps([as_step(block) for block in run])
            output, errors = process.communicate(steps_of_it, timeout=WITHIN_S)
        finally:
            # What a page starts in the background ends with it, also when a step fails.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert (process.returncode, errors) == (0, ""), f"{output}\n{errors}"
    printed = output.split(f"{MARK}\n")
    assert printed.pop() == ""
    assert len(printed) == len(run)
    assert any(printed), "a page that prints nothing shows nothing"
    for block, text in zip(run, printed, strict=True):
        if block.output is not None:
            assert fits(block.output, text), f"{named(page)}:{block.line} prints\n{text}"


def as_step(block: Block) -> dict[str, str | int]:
    return {
        "language": block.language,
        "text": block.text,
        "line": block.line,
        "page": str(block.page),
        "where": f"{named(block.page)}:{block.line}",
    }


def environment(endpoint: str) -> dict[str, str]:
    """The commands ``coord``, ``coord-server`` and ``python`` are those of this interpreter, as in a fresh shell."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return clean_environment(
        {
            "COORD_ENDPOINTS": endpoint,
            "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}",
            "PYTHONPATH": ":".join(path for path in paths if path),
        }
    )


def test_every_block_is_of_a_known_kind() -> None:
    unknown = [
        f"{named(page)}:{block.line} {block.language}"
        for page in PAGES
        for block in blocks(page)
        if block.language not in RUN | SHOWN
    ]
    assert unknown == []


def test_what_does_not_run_is_counted() -> None:
    found = Counter(
        named(page)
        for page in PAGES
        for block in blocks(page)
        if block.language in RUN and block.why_not is not None
    )
    assert found == NOT_RUN


def test_what_runs_elsewhere_runs_there() -> None:
    for page in PAGES:
        for test in {block.run_by for block in blocks(page) if block.run_by is not None}:
            assert page.name in (ROOT / test).read_text("utf-8"), f"{test} does not read {page}"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text("utf-8")
    made = {(ROOT / "docs" / name).resolve() for name in made_pages()}
    targets = [(target, (page.parent / target).resolve()) for target in LINK.findall(text)]
    links = [target for target, path in targets if not path.exists() and path not in made]
    tests = [path for path in TEST_PATH.findall(text) if not (ROOT / path).exists()]
    assert links + tests == []


def test_every_decision_is_in_the_index() -> None:
    folder = ROOT / "docs" / "decisions"
    index = (folder / "README.md").read_text("utf-8")
    pages = sorted(page.name for page in folder.glob("[0-9]*.md"))
    assert [name[:4] for name in pages] == [f"{n:04}" for n in range(1, len(pages) + 1)]
    assert [name for name in pages if f"({name})" not in index] == []
