"""What the documentation shows runs, and what it points at exists."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "recipes").glob("*.md")),
]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?://|#)([^)#\s]+)[^)\s]*\)")
TEST_PATH = re.compile(r"`(tests/[\w/.-]+)`")


def named(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


SNIPPETS = [
    pytest.param(text, id=f"{named(page)}-{number}")
    for page in PAGES
    for number, text in enumerate(BLOCK.findall(page.read_text("utf-8")), start=1)
]


def test_the_readme_has_a_program() -> None:
    assert any(str(snippet.id).startswith("README.md") for snippet in SNIPPETS)


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_snippet_runs(snippet: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", snippet],
        cwd=tmp_path,
        env=os.environ | {"COORD_ENDPOINTS": "memory:"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout != ""


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text("utf-8")
    links = [target for target in LINK.findall(text) if not (page.parent / target).exists()]
    tests = [path for path in TEST_PATH.findall(text) if not (ROOT / path).exists()]
    assert links + tests == []


def test_every_decision_is_in_the_index() -> None:
    folder = ROOT / "docs" / "decisions"
    index = (folder / "README.md").read_text("utf-8")
    pages = sorted(page.name for page in folder.glob("[0-9]*.md"))
    assert [name[:4] for name in pages] == [f"{n:04}" for n in range(1, len(pages) + 1)]
    assert [name for name in pages if f"({name})" not in index] == []
