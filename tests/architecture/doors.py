"""What counts as the world, and a finder of it in a syntax tree.

The world is everything whose answer a replay could not repeat: clocks, draws, threads, sockets, files,
processes. Sources reach it through ``coord.runtime`` and the server's ``Disk``.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

WORLD_MODULES = frozenset(
    {
        "concurrent",
        "fcntl",
        "glob",
        "lmdb",
        "mmap",
        "multiprocessing",
        "pathlib",
        "queue",
        "random",
        "secrets",
        "select",
        "selectors",
        "shutil",
        "signal",
        "socket",
        "subprocess",
        "tempfile",
        "threading",
        "time",
        "uuid",
    }
)

# Of `os` only what reads this process's own identity, or computes on names without asking the disk.
TAME_OS = frozenset(
    {
        "os.PathLike",
        "os.environ",
        "os.fsdecode",
        "os.fsencode",
        "os.fspath",
        "os.getpid",
        "os.path",
        "os.path.basename",
        "os.path.dirname",
        "os.path.isabs",
        "os.path.join",
        "os.path.normpath",
        "os.strerror",
    }
)

WALL_CLOCKS = frozenset({"now", "utcnow", "today"})
TASK_MAKERS = frozenset({"create_task", "ensure_future", "gather", "run_coroutine_threadsafe"})


def is_tame(name: str) -> bool:
    """Whether a name of `os` asks nothing of the system; its flags (``O_CREAT``) are plain numbers."""
    return name in TAME_OS or name.startswith("os.environ.") or name.rpartition(".")[2].isupper()


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One touch of the world: where, what, and of which kind (``world`` or ``task``)."""

    line: int
    what: str
    kind: str


def dotted(node: ast.expr) -> str:
    """``a.b.c`` of a chain of attributes; a call or subscript inside it becomes ``()``."""
    match node:
        case ast.Name():
            return node.id
        case ast.Attribute():
            return f"{dotted(node.value)}.{node.attr}"
        case ast.Call():
            return f"{dotted(node.func)}()"
        case _:
            return "?"


def imported_world(node: ast.AST) -> Iterator[Finding]:
    """Imports of modules that are the world, and names taken out of `os` and `asyncio`."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            if alias.name.partition(".")[0] in WORLD_MODULES:
                yield Finding(line=node.lineno, what=f"import {alias.name}", kind="world")
    elif isinstance(node, ast.ImportFrom) and node.module is not None:
        for alias in node.names:
            name = f"{node.module}.{alias.name}"
            if node.module.partition(".")[0] in WORLD_MODULES or (
                node.module.partition(".")[0] == "os" and not is_tame(name)
            ):
                yield Finding(line=node.lineno, what=f"from {name}", kind="world")
            elif node.module == "asyncio" and alias.name in TASK_MAKERS:
                yield Finding(line=node.lineno, what=f"from {name}", kind="task")


def used_world(node: ast.AST) -> Iterator[Finding]:
    """Calls and attributes that reach the world without an import of their own."""
    if isinstance(node, ast.Call):
        if isinstance(node.func, ast.Name) and node.func.id in {"open", "input", "__import__"}:
            yield Finding(line=node.lineno, what=f"{node.func.id}()", kind="world")
        elif isinstance(node.func, ast.Attribute):
            owner = dotted(node.func.value)
            if node.func.attr in WALL_CLOCKS and owner.rpartition(".")[2] in {"datetime", "date"}:
                yield Finding(line=node.lineno, what=f"{owner}.{node.func.attr}()", kind="world")
    elif isinstance(node, ast.Attribute):
        name = dotted(node)
        owner = name.rpartition(".")[0]
        if node.attr in {"run_in_executor", "to_thread"} or (
            name.startswith("os.") and not is_tame(name)
        ):
            yield Finding(line=node.lineno, what=name, kind="world")
        elif node.attr in TASK_MAKERS and (
            owner == "asyncio"
            or owner.lower().endswith("loop")
            or owner.endswith(("get_running_loop()", "get_event_loop()"))
        ):
            yield Finding(line=node.lineno, what=name, kind="task")


def findings(tree: ast.AST) -> list[Finding]:
    """Every touch of the world in ``tree``, in line order."""
    found = [f for node in ast.walk(tree) for f in (*imported_world(node), *used_world(node))]
    return sorted(found, key=lambda finding: (finding.line, finding.what))
