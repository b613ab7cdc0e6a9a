"""What the generator of the site is given: the pages of ``docs/``, and those made from the sources.

Everything is put together below ``build/docs``, so that ``docs/`` holds only what people write.
"""

# ruff: noqa: INP001 - part of a script, in a folder that is no package.

from __future__ import annotations

import ast
import json
import shutil
import tomllib
from pathlib import Path
from typing import Any, TypeAlias, cast

from tools.site import reference
from tools.site.groups import GROUPS

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
CONFIG = "zensical.toml"
_UNRELEASED = "<!-- towncrier release notes start -->"
_KINDS = {
    "breaking": "Breaking changes",
    "added": "Added",
    "changed": "Changed",
    "fixed": "Fixed",
}

Nav: TypeAlias = "list[str | dict[str, str | Nav]]"


def stage(target: Path) -> Path:
    """Fill ``target`` with pages and configuration; return the configuration's path."""
    shutil.rmtree(target, ignore_errors=True)
    pages = target / "docs"
    # Fragments of the changelog are no pages; they are put together into one.
    shutil.copytree(DOCS, pages, ignore=shutil.ignore_patterns("changes"))
    for name, text in made_pages().items():
        path = pages / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    config = tomllib.loads((ROOT / CONFIG).read_text("utf-8"))
    config["project"]["nav"] = navigation(config["project"]["nav"], pages)
    path = target / CONFIG
    path.write_text(_toml(config), "utf-8")
    return path


def made_pages() -> dict[str, str]:
    """Return the pages that nobody writes, by their path below ``docs``."""
    made = {f"reference/{name}": text for name, text in reference.pages().items()}
    made["examples.md"] = _programs(
        "Examples", "One file per primitive.", sorted((ROOT / "examples").glob("*.py"))
    )
    made["recipes.md"] = _programs(
        "Recipes",
        "Composed patterns to copy: what each one guarantees, and what happens on loss.",
        sorted((ROOT / "recipes").glob("*.py")),
    )
    made["changelog.md"] = _changelog()
    return made


def navigation(written: Nav, pages: Path) -> Nav:
    """Return the navigation as written, less what does not exist, with the reference's pages below its index."""
    below: Nav = [{group.title: f"reference/{group.slug}.md"} for group in GROUPS]
    made: Nav = []
    for item in written:
        title, where = next(iter(item.items())) if isinstance(item, dict) else ("", item)
        if isinstance(where, list):
            made.append({title: navigation(where, pages)})
        elif where == "reference/index.md":
            made.append({title: [where, *below]})
        elif (pages / where).exists():
            made.append(item)
    return made


def listed(nav: Nav) -> list[str]:
    """Return the paths of a navigation, in order."""
    found: list[str] = []
    for item in nav:
        value = next(iter(item.values())) if isinstance(item, dict) else item
        found += listed(value) if isinstance(value, list) else [str(value)]
    return found


def _programs(title: str, about: str, files: list[Path]) -> str:
    """Show programs whole, each under the first line of its docstring."""
    parts = [f"# {title}", "", about, ""]
    for path in files:
        source = path.read_text("utf-8")
        summary = (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]
        name = path.relative_to(ROOT).as_posix()
        parts += [f"## {path.stem}", "", summary, "", f'```python title="{name}"', source.rstrip()]
        parts += ["```", ""]
    return "\n".join(parts)


def _changelog() -> str:
    """Put what is not released yet before what is."""
    head, mark, released = (DOCS / "changelog.md").read_text("utf-8").partition(_UNRELEASED)
    parts = [head.rstrip(), "", "## Unreleased", ""]
    for kind, title in _KINDS.items():
        fragments = sorted((DOCS / "changes").glob(f"*.{kind}.md"))
        if fragments:
            texts = [" ".join(path.read_text("utf-8").split()) for path in fragments]
            parts += [f"### {title}", "", *(f"- {text}" for text in texts), ""]
    return "\n".join(parts) + mark + released


def _toml(config: dict[str, Any]) -> str:
    """Write the configuration; JSON's strings, lists and booleans are TOML's."""
    lines: list[str] = []
    tables: list[tuple[str, dict[str, Any]]] = list(config.items())
    while tables:
        name, table = tables.pop(0)
        lines.append(f"[{name}]")
        for key, value in table.items():
            if isinstance(value, dict):
                tables.append((f"{name}.{key}", cast("dict[str, Any]", value)))
            else:
                lines.append(f"{key} = {_toml_value(value)}")
    return "\n".join(lines) + "\n"


def _toml_value(value: object) -> str:
    if isinstance(value, dict):
        pairs = cast("dict[str, object]", value).items()
        return "{ " + ", ".join(f"{json.dumps(k)} = {_toml_value(v)}" for k, v in pairs) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(_toml_value(item) for item in cast("list[object]", value)) + "]"
    return json.dumps(value)
