"""Pages that lie are found out, and pages that do not are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.pages import blocks, fits, steps
from tests.docs.test_snippets import run_page
from tests.support.servers import ServerProcess

HONEST = """
# A page

```python
import coord
client = await coord.connect()
print((await client.put("k", "v")).revision)
```

```text
2
```

```python title="later.py"
import coord.sync
with coord.sync.connect() as client:
    print(client.get("k").value)
```

```sh
python later.py
coord get k --print-value-only
```

```text
b'...'
v
```

```python
import asyncio
asyncio.run(asyncio.sleep(0))  # no loop is running between the steps
```

```python
await client.close()
```

<!-- not run: it is an example of that -->
```python
raise SystemExit("run nevertheless")
```
"""

LIES = {
    "other output": ("```python\nprint(1)\n```\n\n```text\n2\n```\n", "prints"),
    "more output": ("```sh\necho 1; echo 2\n```\n\n```text\n1\n```\n", "prints"),
    "silent": ("```python\nx = 1\n```\n", "prints nothing"),
    "raises": ("```python\nprint(1)\nraise KeyError(2)\n```\n", "KeyError: 2"),
    "a command fails": ("```sh\necho 1\nfalse\necho 2\n```\n", "exit code 1"),
    "complains": ("```sh\necho 1\necho 2 >&2\n```\n", "2"),
    "leaves a client open": (
        "```python\nimport coord\nclient = await coord.connect()\nprint(1)\n```\n",
        "unclosed",
    ),
}


def written(directory: Path, text: str) -> Path:
    page = directory / "page.md"
    page.write_text(text, "utf-8")
    return page


@pytest.mark.processes
def test_an_honest_page_runs(coord_server: ServerProcess, tmp_path: Path) -> None:
    run_page(written(tmp_path, HONEST), coord_server, tmp_path / "page")


@pytest.mark.processes
@pytest.mark.parametrize("lie", sorted(LIES))
def test_a_lie_is_found(shared_coord_server: ServerProcess, tmp_path: Path, lie: str) -> None:
    text, told = LIES[lie]
    with pytest.raises(AssertionError, match=told):
        run_page(written(tmp_path, text), shared_coord_server, tmp_path / "page")


def test_a_traceback_shows_the_line_of_the_page(
    shared_coord_server: ServerProcess, tmp_path: Path
) -> None:
    page = written(tmp_path, "text\n\n```python\nprint(1)\nraise KeyError(2)\n```\n")
    with pytest.raises(AssertionError, match=r'page\.md", line 5'):
        run_page(page, shared_coord_server, tmp_path / "page")


@pytest.mark.parametrize(
    "text",
    ["```python\nprint(1)\n", "- a\n\n  ```python\n  print(1)\n  ```\n", "```python {x}\n```\n"],
    ids=["not closed", "indented", "not understood"],
)
def test_a_block_that_would_be_missed_is_an_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match=r"page\.md"):
        blocks(written(tmp_path, text))


def test_what_stands_around_a_block_is_read(tmp_path: Path) -> None:
    page = written(tmp_path, HONEST + "\n<!-- run by tests/docs/test_pages.py -->\n```sh\nx\n```\n")
    assert [block.title for block in steps(page)] == [None, "later.py", None, None, None]
    assert [block.why_not for block in blocks(page) if block.why_not] == [
        "it is an example of that"
    ]
    assert [block.run_by for block in blocks(page) if block.run_by] == ["tests/docs/test_pages.py"]
    assert [block.output for block in steps(page)] == ["2\n", None, "b'...'\nv\n", None, None]


def test_three_dots_stand_for_anything() -> None:
    assert fits("a...c\n", "abbc\n")
    assert fits("...", "")
    assert not fits("a...c\n", "abbd\n")
    assert not fits("a\n", "a\nb\n")
