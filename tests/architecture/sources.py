"""The source files of both packages, named from the root of the tree."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("src/coord", "src/server/coord_server")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One file: its path from the root with ``/``, its text and its tree."""

    path: str
    text: str
    tree: ast.Module


def is_generated(path: str) -> bool:
    """Message modules carry names that protobuf chooses."""
    return path.endswith("_pb2.py")


def sources() -> list[Source]:
    """Every hand-written Python file of the two packages, in path order."""
    found: list[Source] = []
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            path = file.relative_to(ROOT).as_posix()
            if not is_generated(path):
                text = file.read_text(encoding="utf-8")
                found.append(Source(path=path, text=text, tree=ast.parse(text, filename=path)))
    return found
