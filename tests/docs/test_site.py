"""The site is whole: every page is in it, every link ends where it says, every public name is explained."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from enum import Enum
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest
from typing_extensions import override

from tests.docs.pages import ROOT
from tests.sdk.test_sync_parity import INTERNAL
from tools.site import reference
from tools.site.__main__ import build
from tools.site.api import entries, paths_of, public_paths
from tools.site.groups import GROUPS, HIDDEN
from tools.site.stage import CONFIG, DOCS, listed, made_pages

# Pages that others lead to: one decision is like the other, and their index lists them all.
BY_INDEX = ("decisions/", "changes/")


class Page(HTMLParser):
    """The anchors and internal links of one page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.feed(path.read_text("utf-8"))

    @override
    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if anchor := values.get("id") or (values.get("name") if tag == "a" else None):
            self.anchors.add(anchor)
        target = values.get("href" if tag in ("a", "link") else "src")
        if target and "://" not in target and not target.startswith(("mailto:", "data:")):
            self.links.append(target)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as ``make docs`` does."""
    directory = tmp_path_factory.mktemp("docs")
    assert build(directory / "site", directory / "staged") == 0
    return directory / "site"


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in sorted(site.rglob("*.html"))}


def broken(site: Path, pages: dict[Path, Page]) -> Iterator[str]:
    for path, page in pages.items():
        if path.name == "404.html":  # served in any place, so its links begin at the root
            continue
        for link in page.links:
            target, anchor = urldefrag(link)
            end = (path.parent / unquote(target)).resolve() if target else path
            if end.is_dir():
                end /= "index.html"
            if not end.is_file():
                yield f"{path.relative_to(site)}: {link}"
            elif anchor and end in pages and unquote(anchor) not in pages[end].anchors:
                yield f"{path.relative_to(site)}: {link} (no such anchor)"


def test_every_link_ends_where_it_says(site: Path, pages: dict[Path, Page]) -> None:
    assert sorted(broken(site, pages)) == []
    assert sum(len(page.links) for page in pages.values()) > 1000


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    path = tmp_path / "index.html"
    path.write_text('<h1 id="a"></h1><a href="#a"></a><a href="#b"></a><a href="c/"></a>')
    assert list(broken(tmp_path, {path: Page(path)})) == [
        "index.html: #b (no such anchor)",
        "index.html: c/",
    ]


def test_the_site_needs_nothing_from_elsewhere(pages: dict[Path, Page]) -> None:
    for path in pages:
        for line in path.read_text("utf-8").splitlines():
            assert not ("<script src=" in line and "://" in line), path
            assert "fonts.googleapis" not in line


def test_every_page_is_in_the_navigation() -> None:
    nav = tomllib.loads((ROOT / CONFIG).read_text("utf-8"))["project"]["nav"]
    in_nav = listed(nav)
    assert len(in_nav) == len(set(in_nav))
    written = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    standing = {name for name in written if not name.startswith(BY_INDEX)}
    made = {name for name in made_pages() if not name.startswith("reference/")}
    assert standing - set(in_nav) == set()
    assert made - set(in_nav) == set()
    assert set(in_nav) - written - set(made_pages()) == set()


def test_every_public_name_has_a_page() -> None:
    placed = [path for group in GROUPS for path in paths_of(group)]
    assert len(placed) == len(set(placed))
    meant = {path for path in public_paths() if not path.endswith(".__version__")}
    assert meant - set(placed) == set(), "add the name to tools/site/groups.py"


def test_every_public_name_and_member_is_explained() -> None:
    bare = [
        f"{entry.path}.{member.name}" if member else entry.path
        for listed_entries in entries().values()
        for entry in listed_entries
        for member in (None, *entry.members)
        if not (member or entry).doc
        and isinstance(entry.value, type)
        # The names of an enumeration speak for themselves, or their class does.
        and not (member and issubclass(entry.value, Enum))
    ]
    assert bare == []


def test_what_is_left_out_is_internal() -> None:
    assert HIDDEN == INTERNAL


def test_roles_become_links() -> None:
    assert reference.prose("Raises :class:`LockLost`, see :meth:`Mutex.acquire` and ``x``.") == (
        "Raises [`LockLost`](errors.md#LockLost), see [`Mutex.acquire`](locks.md#Mutex.acquire) and `x`."
    )


def test_a_twin_speaks_of_twins() -> None:
    assert reference.find("Mutex", "coord.sync") == "sync.md#sync.Mutex"
    assert reference.find("coord.Mutex", "coord.sync") == "locks.md#Mutex"


def test_an_internal_module_is_no_link() -> None:
    assert reference.prose("See :mod:`coord.store.txn`.") == "See `coord.store.txn`."


def test_indented_blocks_become_code() -> None:
    assert reference.prose("Do this:\n\n    a = 1\n\nThen that.") == (
        "Do this:\n\n```python\na = 1\n```\n\nThen that."
    )


def test_no_role_is_left_over() -> None:
    left = [name for name, text in reference.pages().items() if ":class:`" in text]
    assert left == []
