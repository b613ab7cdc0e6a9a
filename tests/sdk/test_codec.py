"""Codecs: which one fits, what it writes, and what it says of what it cannot read."""

from __future__ import annotations

import dataclasses
import enum
import subprocess
import sys
from typing import Annotated, Any, Literal

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

import coord
from coord import codec


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclasses.dataclass(frozen=True)
class Point:
    x: int
    y: int = 0


@dataclasses.dataclass
class Tree:
    name: str
    children: list[Tree] = dataclasses.field(default_factory=list["Tree"])


@dataclasses.dataclass
class Everything:
    flag: bool
    number: int
    ratio: float
    text: str
    raw: bytes
    maybe: int | None
    mode: Literal["fast", 1]
    colour: Colour
    points: list[Point]
    pair: tuple[int, str]
    many: tuple[int, ...]
    tags: frozenset[str]
    by_name: dict[str, Point]
    anything: Any
    noted: Annotated[int, "a note"]


class Struct(msgspec.Struct):
    x: int


class Model(pydantic.BaseModel):
    x: int


@pydantic.dataclasses.dataclass
class ModelClass:
    x: int


whole = st.integers(-(2**63), 2**63)
points = st.builds(Point, x=whole, y=whole)
everything = st.builds(
    Everything,
    flag=st.booleans(),
    number=whole,
    ratio=st.floats(allow_nan=False, allow_infinity=False),
    text=st.text(),
    raw=st.binary(),
    maybe=st.none() | whole,
    mode=st.sampled_from(["fast", 1]),
    colour=st.sampled_from(Colour),
    points=st.lists(points),
    pair=st.tuples(whole, st.text()),
    many=st.lists(whole).map(tuple),
    tags=st.frozensets(st.text()),
    by_name=st.dictionaries(st.text(), points),
    anything=st.recursive(st.none() | st.booleans() | whole | st.text(), st.lists),
    noted=whole,
)


@given(everything)
def test_a_dataclass_comes_back_as_it_was(value: Everything) -> None:
    kind = codec.for_type(Everything)
    assert kind.decode(kind.encode(value)) == value


@pytest.mark.parametrize(
    ("kind", "value", "data"),
    [
        (bytes, b"\xff", b"\xff"),
        (str, "é", "é".encode()),
        (int, 7, b"7"),
        (list[int], [1, 2], b"[1,2]"),
        (dict[str, bool], {"a": True}, b'{"a":true}'),
        (Point, Point(1), b'{"x":1,"y":0}'),
        (Tree, Tree("a", [Tree("b")]), b'{"name":"a","children":[{"name":"b","children":[]}]}'),
        (Struct, Struct(1), b'{"x":1}'),
        (Model, Model(x=1), b'{"x":1}'),
        (ModelClass, ModelClass(x=1), b'{"x":1}'),
        (set[int], {2, 1}, b"[1,2]"),
        (tuple, (1, "a"), b'[1,"a"]'),
        (dict, {"a": [1]}, b'{"a":[1]}'),
        (Any, {"a": None}, b'{"a":null}'),
    ],
    ids=str,
)
def test_what_is_written(kind: type[Any], value: object, data: bytes) -> None:
    found = codec.for_type(kind)
    assert found.encode(value) == data
    assert found.decode(data) == value
    assert codec.as_codec(kind).encode(value) == data


def test_msgpack() -> None:
    packed = codec.msgspec(Struct, form="msgpack")
    assert packed.decode(packed.encode(Struct(5))) == Struct(5)
    with pytest.raises(coord.DecodeError, match="no Struct"):
        packed.decode(b"\xc1")


def test_other_versions_of_a_program() -> None:
    assert codec.for_type(Point).decode(b'{"x":1,"new":true}') == Point(1)
    with pytest.raises(coord.DecodeError, match="no Point: y: expected int, found null"):
        codec.for_type(Point).decode(b'{"x":1,"y":null}')


@pytest.mark.parametrize(
    ("kind", "data", "reason"),
    [
        (str, b"\xff", "no str: 'utf-8' codec can't decode"),
        (Point, b"{}", "no Point: x: expected a value, found null"),
        (Point, b"[]", r"no Point: value: expected an object \(Point\), found \[\]"),
        (Point, b"\xff", "no Point: 'utf-8'"),
        (Point, b"{", "no Point: "),
        (int, b"true", "expected int, found true"),
        (float, b'"x"', "expected float"),
        (bytes | None, b'"?"', "found"),
        (list[bytes], b'["?"]', r"\[0\]: expected base64"),
        (list[bytes], b"[1]", r"\[0\]: expected base64"),
        (list[Point], b'[{"x":1},{"x":"a"}]', r"\[1\].x: expected int, found \"a\""),
        (list[list[int]], b"[[1],[2,null]]", r"\[1\]\[1\]: expected int"),
        (dict[str, int], b'{"a":{}}', r"a: expected int, found \{\}"),
        (dict[str, int], b"[]", "expected an object"),
        (list[int], b"{}", "expected an array"),
        (tuple[int, int], b"[1]", "expected an array of 2"),
        (Colour, b'"green"', r"expected one of \['red', 'blue'\], found \"green\""),
        (Literal[1], b"true", r"expected one of \[1\], found true"),
        (int | None, b'"' + b"long" * 20 + b'"', r"found \"longlong.*\.\.\.$"),
        (Struct, b"{}", "no Struct: .*missing"),
        (Struct, b"\xff", "no Struct: "),
        (Model, b"{}", "no Model: .*"),
        (Any, b"[" * 100_000, "no JSON value: "),
    ],
    ids=str,
)
def test_what_cannot_be_read(kind: type[Any], data: bytes, reason: str) -> None:
    with pytest.raises(coord.DecodeError, match=reason):
        codec.for_type(kind).decode(data)


def test_the_key_is_named() -> None:
    with pytest.raises(coord.DecodeError, match="the value of b'k' is no Point") as caught:
        codec.decode_at(codec.for_type(Point), b"k", b"[]")
    assert (caught.value.key, caught.value.type_name) == (b"k", "Point")

    class Odd:
        def encode(self, value: int, /) -> bytes:
            return bytes([value])

        def decode(self, data: bytes, /) -> int:
            return data[0]

    assert codec.decode_at(codec.as_codec(Odd()), b"k", b"\x05") == 5
    with pytest.raises(coord.DecodeError, match="is no Odd: IndexError: index out of range"):
        codec.decode_at(Odd(), b"k", b"")


def test_what_cannot_be_written() -> None:
    with pytest.raises(coord.InvalidArgument, match="cannot write this float as JSON"):
        codec.for_type(float).encode(float("nan"))
    with pytest.raises(coord.InvalidArgument, match="complex has no form"):
        codec.JSON.encode(1j)


def test_types_without_a_codec() -> None:
    @dataclasses.dataclass
    class Lost:
        where: Nowhere  # type: ignore[name-defined] # noqa: F821  # pyright: ignore[reportUndefinedVariable]

    for kind, reason in [
        (complex, "complex has no form in JSON; give a codec"),
        (dict[int, int], "must be str: JSON has no others"),
        (Lost, "a field of Lost has a type that is unknown: name 'Nowhere'"),
    ]:
        with pytest.raises(coord.InvalidArgument, match=reason):
            codec.for_type(kind)
    wrong: Any = 5
    with pytest.raises(coord.InvalidArgument, match="5 is neither a type nor a codec"):
        codec.as_codec(wrong)


@pytest.mark.parametrize("library", ["msgspec", "pydantic"])
def test_a_library_that_is_not_there(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(coord.MissingExtra, match=rf'pip install "coord\[{library}\]"'):
        getattr(codec, library)(int)


def test_the_libraries_are_loaded_only_by_those_who_use_them() -> None:
    program = "import sys, coord; coord.codec.for_type(int); coord.codec.for_type(str)\n"
    program += "print([n for n in ('msgspec', 'pydantic') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)  # fmt: skip
    assert done.stdout.strip() == "[]"
