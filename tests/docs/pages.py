"""The pages that tests read, and the blocks in them.

A fenced block of ``python`` or ``sh`` is a step of its page: steps run in order, in one process, one namespace and
one directory. Three things are written around a block:

* a ``text`` block below it is what it prints; ``...`` in it stands for anything;
* ``title="worker.py"`` in its fence makes it a file of the page's directory, for later steps to run;
* a comment above it, ``<!-- not run: why -->`` or ``<!-- run by tests/... -->``, takes it out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "recipes").glob("*.md")),
]
RUN = frozenset({"python", "sh"})
SHOWN = frozenset({"", "text", "toml", "ini", "json", "yaml"})
"""Languages that nobody runs."""
_FENCE = re.compile(r"^```(?P<language>[\w-]*)(?: title=\"(?P<title>[^\"]+)\")?$")
_NOT_RUN = re.compile(r"^<!-- not run: (?P<why>.+) -->$")
_RUN_BY = re.compile(r"^<!-- run by (?P<test>tests/\S+\.py) -->$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A fenced block: ``line`` is that of its first line of text, ``output`` what it must print, None for anything."""

    page: Path
    line: int
    language: str
    text: str
    title: str | None
    why_not: str | None = None
    run_by: str | None = None
    output: str | None = None


def named(page: Path) -> str:
    return page.relative_to(ROOT).as_posix() if page.is_relative_to(ROOT) else page.name


def blocks(page: Path) -> list[Block]:
    """Return the blocks of a page. Raises ValueError for a fence that is indented, not closed or not understood."""
    found: list[Block] = []
    lines = page.read_text("utf-8").splitlines()
    above = ""
    number = 0
    while number < len(lines):
        line = lines[number]
        number += 1
        if not line.lstrip().startswith(("```", "~~~")):
            above = line or above
            continue
        fence = _FENCE.match(line)
        if fence is None or "```" not in lines[number:]:
            raise ValueError(f"{named(page)}:{number}: {line}")
        end = lines.index("```", number)
        text = "".join(f"{part}\n" for part in lines[number:end])
        block = _block(page, number + 1, fence, text, above)
        if block.language == "text" and found and above == "```":
            found[-1] = _with_output(found[-1], text)
        found.append(block)
        above = "```"
        number = end + 1
    return found


def _block(page: Path, line: int, fence: re.Match[str], text: str, above: str) -> Block:
    not_run, run_by = _NOT_RUN.match(above), _RUN_BY.match(above)
    return Block(
        page=page,
        line=line,
        language=fence["language"],
        text=text,
        title=fence["title"],
        why_not=not_run["why"] if not_run else None,
        run_by=run_by["test"] if run_by else None,
    )


def _with_output(block: Block, output: str) -> Block:
    return Block(
        page=block.page,
        line=block.line,
        language=block.language,
        text=block.text,
        title=block.title,
        why_not=block.why_not,
        run_by=block.run_by,
        output=output,
    )


def steps(page: Path) -> list[Block]:
    """Return the blocks of a page that run, and the files they need."""
    return [
        block
        for block in blocks(page)
        if block.language in RUN and block.why_not is None and block.run_by is None
    ]


def fits(shown: str, printed: str) -> bool:
    """Say whether ``printed`` is what the page shows."""
    pattern = ".*".join(re.escape(part) for part in shown.split("..."))
    return re.fullmatch(pattern, printed, re.DOTALL) is not None
