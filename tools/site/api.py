"""What is public, read from the running package and, for what only the source tells, from its syntax tree.

The package loads its names late and a client is made of parts, so neither a plain import of the modules nor
their text alone shows what a user sees; see decision 29.
"""

# ruff: noqa: INP001 - part of a script, in a folder that is no package.

from __future__ import annotations

import ast
import inspect
import textwrap
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from functools import cache
from importlib import import_module
from itertools import pairwise
from types import ModuleType
from typing import TYPE_CHECKING, Any, get_overloads

from tools.site.groups import FACES, GROUPS, HIDDEN, HIDDEN_ATTRIBUTES, Group

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_LINE = 88  # characters of a signature before it is broken into one line for each parameter


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A method, a property or an attribute of a class."""

    name: str
    signature: str
    doc: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One public name. ``path`` is how a user writes it, such as ``coord.sync.Mutex``."""

    path: str
    value: Any
    doc: str
    signature: str = ""
    bases: tuple[type, ...] = ()
    members: tuple[Member, ...] = ()

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition(".")[2]


def load(path: str) -> Any:  # noqa: ANN401 - anything may have a name
    """Return what is behind a dotted path: a name of a module before a module of that name."""
    home, _, name = path.rpartition(".")
    if not home:
        return import_module(path)
    parent = import_module(home)
    return getattr(parent, name) if hasattr(parent, name) else import_module(path)


def public_paths() -> list[str]:
    """Return every name of the public API, as users write it."""
    return [f"{face}.{name}" for face in FACES for name in load(face).__all__]


def paths_of(group: Group) -> Iterator[str]:
    """Yield the paths of a page, with the stars resolved."""
    for name in group.names:
        if not name.endswith(".*"):
            yield name
            continue
        home = name.removesuffix(".*")
        if home == "coord.errors":
            yield from _error_paths()
        else:
            yield from (f"{home}.{part}" for part in load(home).__all__)


def _error_paths() -> list[str]:
    """Return the error classes in the order of the source, which is the order of the tree's explanation."""
    import coord

    errors: set[str] = {name for name in coord.__all__ if _is_error(getattr(coord, name))}
    known: dict[str, object] = vars(load("coord.errors"))
    in_order = [name for name in known if name in errors]
    return [f"coord.{name}" for name in in_order + sorted(errors - set(in_order))]


def _is_error(value: object) -> bool:
    return inspect.isclass(value) and issubclass(value, BaseException)


@cache
def entries() -> dict[str, tuple[Entry, ...]]:
    """Return the entries of each page, by slug."""
    return {group.slug: tuple(describe(path) for path in paths_of(group)) for group in GROUPS}


def describe(path: str) -> Entry:
    """Look at one public name."""
    value = load(path)
    if inspect.isclass(value):
        return _describe_class(path, value)
    doc = inspect.getdoc(value) or "" if callable(value) or inspect.ismodule(value) else ""
    if inspect.ismodule(value):
        members = [
            Member(
                name=name,
                signature=signature(part, name) if callable(part) else "",
                doc=inspect.getdoc(part) or "",
            )
            for name in value.__all__
            # Classes that a module shares with `coord` are explained there.
            if not inspect.isclass(part := getattr(value, name))
        ]
        return Entry(path=path, value=value, doc=doc, members=tuple(members))
    text = signature(value, path) if callable(value) else ""
    return Entry(path=path, value=value, doc=doc, signature=text)


def _describe_class(path: str, cls: type) -> Entry:
    public = {load(name) for name in _class_paths()}
    bases = tuple(base for base in cls.__mro__[1:] if base in public and base is not cls)
    inherited: set[type] = {part for base in bases for part in base.__mro__}
    return Entry(
        path=path,
        value=cls,
        doc=inspect.getdoc(cls) or "" if vars(cls).get("__doc__") else "",
        signature=signature(cls, path) if _shows_how_it_is_made(cls, path) else "",
        bases=bases,
        members=tuple(
            member
            for owner in cls.__mro__
            if owner not in inherited and owner.__module__.partition(".")[0] == "coord"
            for member in _members(owner, cls)
        ),
    )


def _shows_how_it_is_made(cls: type, path: str) -> bool:
    """Say whether users make one, or see its fields in how it is made; most objects are made by a client."""
    if is_dataclass(cls):
        return "wire" not in {field.name for field in fields(cls)}
    if path.rpartition(".")[0] in FACES and not path.startswith("coord.sync."):
        return _is_error(cls) and "__init__" in vars(cls)
    return path.startswith("coord.testing.") and "__init__" in vars(cls)


@cache
def _class_paths() -> tuple[str, ...]:
    return tuple(
        path for group in GROUPS for path in paths_of(group) if inspect.isclass(load(path))
    )


def _members(owner: type, cls: type) -> Iterator[Member]:
    attributes = documented_attributes(owner)
    if issubclass(cls, Enum):
        for item in cls:
            yield Member(name=item.name, signature="", doc=attributes.get(item.name, ""))
        return
    for name, doc in attributes.items():
        yield Member(name=name, signature=name, doc=doc)
    for name, value in vars(owner).items():
        hidden = name.startswith("_") or f"{cls.__name__}.{name}" in HIDDEN
        if hidden or f"{owner.__name__}.{name}" in HIDDEN or getattr(cls, name, None) is None:
            continue
        doc = inspect.getdoc(value) or ""
        if isinstance(value, property):
            returns = inspect.signature(value.fget).return_annotation if value.fget else ""
            yield Member(name=name, signature=f"{name}: {_annotation(returns)}", doc=doc)
        elif inspect.isfunction(value) or isinstance(value, staticmethod | classmethod):
            plain = value if inspect.isfunction(value) else value.__func__
            yield Member(name=name, signature=signature(plain, name), doc=doc)


def documented_attributes(cls: type) -> dict[str, str]:
    """Return the attributes that have a string below them: in the class body, or in ``__init__``."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    except (OSError, TypeError):
        return {}
    found: dict[str, str] = {}
    (body,) = [node.body for node in tree.body if isinstance(node, ast.ClassDef)] or [[]]
    makers = [n.body for n in body if isinstance(n, ast.FunctionDef) and n.name == "__init__"]
    for statements in (body, *makers):
        for statement, after in pairwise(statements):
            name, text = _assigned(statement), _text(after)
            hidden = name is None or name.startswith("_")
            if (
                text is not None
                and not hidden
                and f"{cls.__name__}.{name}" not in HIDDEN_ATTRIBUTES
            ):
                found[str(name)] = text
    return found


def _text(statement: ast.stmt) -> str | None:
    """Return a string that stands by itself."""
    value = statement.value if isinstance(statement, ast.Expr) else None
    if isinstance(value, ast.Constant) and isinstance(value.value, str):
        return inspect.cleandoc(value.value)
    return None


def _assigned(statement: ast.stmt) -> str | None:
    if isinstance(statement, ast.Assign):
        target: ast.expr = statement.targets[0]
    elif isinstance(statement, ast.AnnAssign):
        target = statement.target
    else:
        return None
    if isinstance(target, ast.Name):
        return target.id
    if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name):
        return target.attr if target.value.id == "self" else None
    return None


def signature(value: Callable[..., object], name: str) -> str:
    """Return how ``value`` is called, as it is written in the source."""
    variants = get_overloads(value) if inspect.isfunction(value) else []
    return "\n".join(_one_signature(variant, name) for variant in variants or [value])


def _one_signature(value: Callable[..., object], name: str) -> str:
    shown = inspect.signature(value)
    parts: list[str] = []
    starred = False
    for index, parameter in enumerate(shown.parameters.values()):
        if index == 0 and parameter.name in ("self", "cls"):
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not starred:
            parts.append("*")
        starred = starred or parameter.kind in (parameter.KEYWORD_ONLY, parameter.VAR_POSITIONAL)
        parts.append(_parameter(parameter))
    head = "async def" if _is_awaited(value) else "class" if inspect.isclass(value) else "def"
    returns = _annotation(shown.return_annotation)
    tail = f" -> {returns}" if returns and not inspect.isclass(value) else ""
    line = f"{head} {name}({', '.join(parts)}){tail}"
    if len(line) <= _LINE:
        return line
    inner = "".join(f"    {part},\n" for part in parts)
    return f"{head} {name}(\n{inner}){tail}"


def _is_awaited(value: object) -> bool:
    return inspect.iscoroutinefunction(value)


def _parameter(parameter: inspect.Parameter) -> str:
    star = "*" if parameter.kind is parameter.VAR_POSITIONAL else ""
    stars = "**" if parameter.kind is parameter.VAR_KEYWORD else star
    annotation = _annotation(parameter.annotation)
    text = f"{stars}{parameter.name}" + (f": {annotation}" if annotation else "")
    if parameter.default is parameter.empty:
        return text
    default = parameter.default
    shown = str(default) if isinstance(default, Enum) else repr(default)
    if " object at 0x" in shown or shown.startswith("<"):
        shown = "..."
    return f"{text} = {shown}" if annotation else f"{text}={shown}"


def _annotation(given: object) -> str:
    if given is inspect.Signature.empty:
        return ""
    if isinstance(given, str):
        return given
    return getattr(given, "__name__", None) or str(given)


def is_module(entry: Entry) -> bool:
    """Say whether the entry is a module, whose functions are its members."""
    return isinstance(entry.value, ModuleType)
