"""Dataclasses and the containers of the standard library, as JSON.

Fields that are missing take their defaults, and fields that nobody knows are left out, so that programs of different
versions read each other's values.
Bytes are base64; an enumeration is its value; sets and tuples are arrays; a float may be written as a whole number.
"""

from __future__ import annotations

import base64
import dataclasses
import enum
import json
import types
import typing
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from coord.errors import DecodeError, InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Callable

    from coord.codec.protocol import Codec

T = TypeVar("T")

_PLAIN: tuple[type, ...] = (bool, int, str)


class Misfit(ValueError):
    """A piece of JSON is not what the type wants; ``path`` leads to it."""

    def __init__(self, path: str, wanted: str, found: object) -> None:
        self.path = path
        self.wanted = wanted
        self.found = found
        super().__init__(f"{path or 'value'}: expected {wanted}, found {_short(found)}")

    def under(self, step: str) -> Misfit:
        """Return the same, seen from one level further out."""
        rest = self.path
        joint = "" if not rest or rest.startswith("[") else "."
        return Misfit(f"{step}{joint}{rest}", self.wanted, self.found)


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:37]}..."  # noqa: PLR2004 - fits a line of a log


class _Json(Generic[T]):
    def __init__(self, type_name: str, load: Callable[[object], T]) -> None:
        self.type_name = type_name
        self._load = load

    def encode(self, value: T, /) -> bytes:
        """Return ``value`` as compact JSON. Raises :class:`coord.InvalidArgument` for what JSON cannot say."""
        try:
            text = json.dumps(
                value, default=_dump, ensure_ascii=False, separators=(",", ":"), allow_nan=False
            )
        except (TypeError, ValueError) as error:
            raise InvalidArgument(f"cannot write this {self.type_name} as JSON: {error}") from error
        return text.encode()

    def decode(self, data: bytes, /) -> T:
        """Return the value. Raises :class:`coord.DecodeError`."""
        try:
            return self._load(json.loads(data.decode()))
        except (ValueError, RecursionError) as error:
            raise DecodeError(self.type_name, str(error)) from error


def _dump(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        # One level: what is inside comes here by itself.
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, set | frozenset):
        members = cast("frozenset[Any]", value)
        return sorted(members, key=repr)  # equal sets are equal bytes
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def structured(kind: type[T]) -> Codec[T]:
    """Return the codec of ``kind``: a dataclass, a container or a scalar of the standard library, as JSON.

    Raises :class:`coord.InvalidArgument` when ``kind`` holds something that JSON cannot tell.
    """
    return _Json(_name(kind), _Loaders().of(kind))


def _name(kind: object) -> str:
    return kind.__name__ if isinstance(kind, type) and not typing.get_args(kind) else str(kind)


class _Loaders:
    """Makes the functions that turn parsed JSON into values; a dataclass may contain itself."""

    def __init__(self) -> None:
        self._dataclasses: dict[object, Callable[[object], Any]] = {}

    def of(self, kind: Any) -> Callable[[object], Any]:  # noqa: ANN401 - a type expression
        """Return the function for ``kind``."""
        if kind is Any or kind is object:
            return lambda value: value
        if kind is None or kind is type(None):
            return _exact((type(None),), "null")
        if kind in _PLAIN:
            return _exact((kind,), kind.__name__)
        if kind is float:
            return _float
        if kind is bytes:
            return _bytes
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            return self._dataclass(kind)
        if isinstance(kind, type) and issubclass(kind, enum.Enum):
            return _enum(kind)
        return self._generic(kind)

    def _generic(self, kind: Any) -> Callable[[object], Any]:  # noqa: ANN401 - a type expression
        origin, arguments = typing.get_origin(kind) or kind, typing.get_args(kind)
        if origin is typing.Union or origin is types.UnionType:
            return _union(_name(kind), [self.of(each) for each in arguments])
        if origin is typing.Literal:
            return _literal(arguments)
        if origin is typing.Annotated:
            return self.of(arguments[0])
        if origin in (list, set, frozenset):
            return _array(origin, self.of(arguments[0] if arguments else Any))
        if origin is dict:
            key, value = arguments or (str, Any)
            if key is not str:
                raise InvalidArgument(f"the keys of {_name(kind)} must be str: JSON has no others")
            return _object(self.of(value))
        if origin is tuple:
            if not arguments or arguments[-1] is Ellipsis:
                return _array(tuple, self.of(arguments[0] if arguments else Any))
            return _record([self.of(each) for each in arguments])
        raise InvalidArgument(f"{_name(kind)} has no form in JSON; give a codec of your own")

    def _dataclass(self, kind: type) -> Callable[[object], Any]:
        known = self._dataclasses.get(kind)
        if known is not None:
            return known
        loaders: dict[str, Callable[[object], Any]] = {}
        fields = [field for field in dataclasses.fields(kind) if field.init]
        required = {
            field.name
            for field in fields
            if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        }
        name = _name(kind)

        def load(value: object) -> object:
            if not isinstance(value, dict):
                raise Misfit("", f"an object ({name})", value)
            given = cast("dict[str, object]", value)
            missing = sorted(required - given.keys())
            if missing:
                raise Misfit(missing[0], "a value", None)
            known = [field for field in loaders if field in given]
            return kind(**{field: _inside(field, loaders[field], given[field]) for field in known})

        self._dataclasses[kind] = load
        try:
            hints = typing.get_type_hints(kind, include_extras=True)
        except NameError as error:
            raise InvalidArgument(
                f"a field of {name} has a type that is unknown: {error}"
            ) from error
        loaders.update((field.name, self.of(hints[field.name])) for field in fields)
        return load


def _inside(step: str, load: Callable[[object], Any], value: object) -> Any:  # noqa: ANN401 - of any type
    try:
        return load(value)
    except Misfit as misfit:
        raise misfit.under(step) from misfit


def _exact(kinds: tuple[type, ...], name: str) -> Callable[[object], Any]:
    def load(value: object) -> object:
        if type(value) not in kinds:  # a bool is no int here
            raise Misfit("", name, value)
        return value

    return load


def _float(value: object) -> float:
    if type(value) not in (int, float):
        raise Misfit("", "float", value)
    return float(cast("float", value))


def _bytes(value: object) -> bytes:
    if not isinstance(value, str):
        raise Misfit("", "base64", value)
    try:
        return base64.b64decode(value, validate=True)
    except ValueError as error:
        raise Misfit("", "base64", value) from error


def _enum(kind: type[enum.Enum]) -> Callable[[object], Any]:
    def load(value: object) -> enum.Enum:
        try:
            return kind(value)
        except ValueError as error:
            raise Misfit("", f"one of {[member.value for member in kind]}", value) from error

    return load


def _literal(allowed: tuple[object, ...]) -> Callable[[object], Any]:
    def load(value: object) -> object:
        for each in allowed:
            if type(each) is type(value) and each == value:
                return each
        raise Misfit("", f"one of {list(allowed)}", value)

    return load


def _union(name: str, loaders: list[Callable[[object], Any]]) -> Callable[[object], Any]:
    def load(value: object) -> object:
        for each in loaders:
            try:
                return each(value)
            except Misfit:
                continue
        raise Misfit("", name, value)

    return load


def _array(
    kind: Callable[[list[Any]], Any], item: Callable[[object], Any]
) -> Callable[[object], Any]:
    def load(value: object) -> object:
        if not isinstance(value, list):
            raise Misfit("", "an array", value)
        members = cast("list[object]", value)
        return kind([_inside(f"[{n}]", item, each) for n, each in enumerate(members)])

    return load


def _record(items: list[Callable[[object], Any]]) -> Callable[[object], Any]:
    wanted = f"an array of {len(items)}"

    def load(value: object) -> object:
        if not isinstance(value, list):
            raise Misfit("", wanted, value)
        members = cast("list[object]", value)
        if len(members) != len(items):
            raise Misfit("", wanted, members)
        return tuple(
            [
                _inside(f"[{n}]", item, each)
                for n, (item, each) in enumerate(zip(items, members, strict=True))
            ]
        )

    return load


def _object(item: Callable[[object], Any]) -> Callable[[object], Any]:
    def load(value: object) -> object:
        if not isinstance(value, dict):
            raise Misfit("", "an object", value)
        members = cast("dict[str, object]", value)
        return {name: _inside(name, item, each) for name, each in members.items()}

    return load


JSON: Codec[Any] = _Json("JSON value", lambda value: value)
"""Whatever JSON can say: objects, arrays, text, numbers, truth values, null."""
