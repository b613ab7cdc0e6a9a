"""``__all__`` is the whole public face, in order, and every name on it explains itself."""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path
from types import ModuleType

import pytest

FACES = ["coord", "coord.codec", "coord.compare", "coord.op", "coord.sync", "coord.testing"]


def order(name: str) -> tuple[int, str]:
    """Constants, then classes, then the rest: the order that the linter keeps too."""
    if name.isupper():
        return (0, name)
    return (1 if name[:1].isupper() else 2, name)


def visible(module: ModuleType) -> set[str]:
    """Public names of ours; submodules come and go with imports, and other packages' names are theirs."""
    return {
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and not inspect.ismodule(value)
        and name not in {"annotations", "TYPE_CHECKING"}
        and getattr(value, "__module__", "coord").partition(".")[0] == "coord"
    }


@pytest.mark.parametrize("face", FACES)
def test_all_is_complete_and_in_order(face: str) -> None:
    module = importlib.import_module(face)
    names: list[str] = module.__all__
    assert names == sorted(set(names), key=order)
    assert [name for name in names if not hasattr(module, name)] == []
    assert visible(module) - set(names) == set()


@pytest.mark.parametrize("face", ["coord", "coord.sync", "coord.testing"])
def test_type_checkers_see_the_same_names(face: str) -> None:
    # A face may load its names late; then the imports that only type checkers read must agree with it.
    module = importlib.import_module(face)
    tree = ast.parse(Path(str(module.__file__)).read_text("utf-8"))
    imported = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and str(node.module).partition(".")[0] == "coord"
        for alias in node.names
        if not (alias.asname or alias.name).startswith("_") or alias.name == "__version__"
    }
    defined = {
        node.name
        for node in tree.body
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_")
    }
    assert imported | defined == set(module.__all__)


@pytest.mark.parametrize("face", FACES)
def test_every_public_name_has_a_docstring(face: str) -> None:
    module = importlib.import_module(face)
    bare: list[str] = []
    for name in module.__all__:
        value = getattr(module, name)
        if not (inspect.isclass(value) or inspect.isfunction(value)):
            continue
        if not inspect.getdoc(value):
            bare.append(name)
        if inspect.isclass(value):
            bare += [
                f"{name}.{member}"
                for member, defined in vars(value).items()
                if not member.startswith("_")
                and inspect.isfunction(defined)
                and not inspect.getdoc(getattr(value, member))
            ]
    assert bare == []
