"""The pages of the reference, as Markdown."""

# ruff: noqa: INP001 - part of a script, in a folder that is no package.

from __future__ import annotations

import inspect
import re
from enum import Enum
from functools import cache

from tools.site.api import Entry, Member, entries, is_module
from tools.site.groups import GROUPS, Group

_ROLE = re.compile(r":(?P<role>class|func|meth|mod|attr|exc):`~?(?P<name>[^`]+)`")
_LITERAL = re.compile(r"``([^`]+)``")


def pages() -> dict[str, str]:
    """Return the text of each page by its file name, the index included."""
    made = {f"{group.slug}.md": _page(group) for group in GROUPS}
    return {"index.md": _index(), **made}


def _index() -> str:
    lines = ["# Reference", "", "Every public name, from its docstring.", ""]
    for group in GROUPS:
        lines += [f"## [{group.title}]({group.slug}.md)", "", group.about, ""]
        names = [f"[`{e.name}`]({group.slug}.md#{anchor(e.path)})" for e in entries()[group.slug]]
        lines += [" ·\n".join(names), ""]
    return "\n".join(lines)


def _page(group: Group) -> str:
    lines = [f"# {group.title}", "", group.about, ""]
    if group.slug == "errors":
        lines += [*_tree(), ""]
    for entry in entries()[group.slug]:
        lines += _entry(entry)
    return "\n".join(lines).rstrip() + "\n"


def _tree() -> list[str]:
    """Draw the inheritance of the errors as a nested list."""
    classes: dict[type, Entry] = {entry.value: entry for entry in entries()["errors"]}
    lines: list[str] = []

    def draw(cls: type, depth: int) -> None:
        lines.append(f"{'    ' * depth}- {_link(classes[cls].path, cls.__name__)}")
        for child in classes:
            if child.__bases__[0] is cls:
                draw(child, depth + 1)

    for cls in classes:
        if cls.__bases__[0] not in classes:
            draw(cls, 0)
    return lines


def _entry(entry: Entry) -> list[str]:
    kind = "module " if is_module(entry) else ""
    lines = [f"## {kind}`{entry.name}` {{ #{anchor(entry.path)} }}", ""]
    if entry.path != f"coord.{entry.name}":
        lines += [f"`{entry.path}`", ""]
    if entry.signature:
        lines += _code(entry.signature)
    if entry.bases:
        base = entry.bases[0]
        lines += [f"A kind of {_link(path_of(base), base.__name__)}, with all that it has.", ""]
    lines += [prose(entry.doc, home_of(entry)), ""]
    if not entry.doc and not entry.signature:
        lines += [f"`{entry.value!r}`", ""]
    if isinstance(entry.value, type) and issubclass(entry.value, Enum):
        return lines + _names(entry)
    for member in entry.members:
        lines += _member(entry, member)
    return lines


def _names(entry: Entry) -> list[str]:
    """List the names of an enumeration, with what is said of each."""
    listed = []
    for member in entry.members:
        mark = f"[](){{ #{anchor(entry.path)}.{member.name} }}"
        doc = " ".join(prose(member.doc, home_of(entry)).split())
        listed.append(f"- {mark}`{member.name}`" + (f": {doc}" if doc else ""))
    return [*listed, ""]


def _member(entry: Entry, member: Member) -> list[str]:
    lines = [f"### `{member.name}` {{ #{anchor(entry.path)}.{member.name} }}", ""]
    if member.signature not in ("", member.name):
        lines += _code(member.signature)
    return [*lines, prose(member.doc, home_of(entry)), ""]


def _code(text: str) -> list[str]:
    return ["```python", text, "```", ""]


def anchor(path: str) -> str:
    """Return the anchor of a public name: ``Mutex``, or ``sync.Mutex`` for a twin."""
    return path.removeprefix("coord.")


@cache
def places() -> dict[str, str]:
    """Return where each path, and each member of it, is explained: ``page.md#anchor``."""
    found: dict[str, str] = {}
    for slug, listed in entries().items():
        for entry in listed:
            found.setdefault(entry.path, f"{slug}.md#{anchor(entry.path)}")
            for member in entry.members:
                path = f"{entry.path}.{member.name}"
                found.setdefault(path, f"{slug}.md#{anchor(entry.path)}.{member.name}")
    return found


@cache
def _paths() -> dict[object, str]:
    found: dict[object, str] = {}
    for listed in entries().values():
        for entry in listed:
            if inspect.isclass(entry.value):
                found.setdefault(entry.value, entry.path)
    return found


def path_of(cls: type) -> str:
    """Return the path under which users know a class."""
    return _paths()[cls]


def _link(path: str, text: str) -> str:
    return f"[`{text}`]({places()[path]})"


def home_of(entry: Entry) -> str:
    """Return the module that a docstring's names are looked up in first: a twin speaks of twins."""
    return entry.path.rpartition(".")[0]


def find(name: str, home: str = "coord") -> str | None:
    """Return the place of a name as docstrings write it: ``Mutex``, ``coord.Mutex``, ``coord.grants.Hold``, ``session``."""
    last = name.rpartition(".")[2]
    owner = name.rpartition(".")[0].rpartition(".")[2]
    near = (f"{home}.{name}", f"{home}.Client.{name}")
    for candidate in (name, *near, f"coord.{name}", f"coord.{last}", f"coord.{owner}.{last}"):
        if candidate in places():
            return places()[candidate]
    return None


def _shown(name: str) -> str:
    """Leave out the modules before a name, unless they are public themselves."""
    parts = name.removeprefix("coord.").split(".")
    while len(parts) > 1 and parts[0].islower() and f"coord.{parts[0]}" not in places():
        parts.pop(0)
    return ".".join(parts)


def prose(doc: str, home: str = "coord") -> str:
    """Turn a docstring into Markdown: roles become links, indented blocks become code."""

    def link(match: re.Match[str]) -> str:
        name = match["name"]
        place = places().get(name) if match["role"] == "mod" else find(name, home)
        text = _shown(name) if place else name
        return f"[`{text}`]({place})" if place else f"`{text}`"

    lines: list[str] = []
    block: list[str] = []

    def end_block() -> None:
        while block and not block[-1].strip():
            block.pop()
        if block:
            lines.extend(["```python", inspect.cleandoc("\n" + "\n".join(block)), "```", ""])
            block.clear()

    in_list = False
    for line in doc.splitlines():
        in_list = line.startswith(("* ", "- ")) or (in_list and line.startswith("  "))
        if not in_list and (line.startswith("    ") or (block and not line.strip())):
            block.append(line)
            continue
        end_block()
        lines.append(_LITERAL.sub(r"`\1`", _ROLE.sub(link, line)))
    end_block()
    return "\n".join(lines)
