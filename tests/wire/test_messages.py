"""The descriptors say what the API says, and the modules offer what generated code would."""

from __future__ import annotations

import ast
import importlib
from importlib import resources

import pytest
from google.protobuf import descriptor_pb2
from google.protobuf.message import Message

from coord.wire import _pool, rpc_pb2
from coord.wire._pool import POOL
from tests.wire.table import ENUMS, MESSAGES

STEMS = ["auth", "election", "health", "kv", "lock", "rpc"]


def file_of(stem: str) -> descriptor_pb2.FileDescriptorProto:
    proto = descriptor_pb2.FileDescriptorProto()
    POOL.FindFileByName(f"coord/wire/{stem}.proto").CopyToProto(proto)
    return proto


def described(field: descriptor_pb2.FieldDescriptorProto) -> str:
    kind = field.type_name.removeprefix(".")
    if not kind:
        kind = (
            descriptor_pb2.FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
        )
    repeated = "repeated " if field.label == field.LABEL_REPEATED else ""
    return f"{field.number} {field.name} {repeated}{kind}"


@pytest.mark.parametrize("name", MESSAGES)
def test_fields_are_those_of_the_api(name: str) -> None:
    package, _, message = name.rpartition(".")
    files = [file for file in map(file_of, STEMS) if file.package == package]
    proto = next(found for file in files for found in file.message_type if found.name == message)
    expected = [" ".join(part.split()) for part in MESSAGES[name].split("|")]
    assert [described(field) for field in proto.field] == expected


@pytest.mark.parametrize("name", ENUMS)
def test_enums_are_those_of_the_api(name: str) -> None:
    values = POOL.FindEnumTypeByName(name).values
    assert [(value.number, value.name) for value in values] == list(enumerate(ENUMS[name].split()))


def test_unions_are_those_of_the_api() -> None:
    assert rpc_pb2.Compare(mod_revision=0).WhichOneof("target_union") == "mod_revision"
    assert (
        rpc_pb2.RequestOp(request_txn=rpc_pb2.TxnRequest()).WhichOneof("request") == "request_txn"
    )
    assert (
        rpc_pb2.ResponseOp(response_put=rpc_pb2.PutResponse()).WhichOneof("response")
        == "response_put"
    )
    watch = rpc_pb2.WatchRequest(progress_request=rpc_pb2.WatchProgressRequest())
    assert watch.WhichOneof("request_union") == "progress_request"


@pytest.mark.parametrize("stem", STEMS)
def test_modules_offer_classes_and_enums_of_their_file(stem: str) -> None:
    module = importlib.import_module(f"coord.wire.{stem}_pb2")
    file = file_of(stem)
    for message in file.message_type:
        made = getattr(module, message.name)
        assert issubclass(made, Message)
        assert made.__module__ == module.__name__
        for enum in message.enum_type:
            assert getattr(made, enum.name).Value(enum.value[0].name) == 0
            assert [getattr(made, value.name) for value in enum.value] == [
                v.number for v in enum.value
            ]
    for enum in file.enum_type:
        assert getattr(module, enum.name).keys() == [value.name for value in enum.value]
        assert [getattr(module, value.name) for value in enum.value] == [
            v.number for v in enum.value
        ]


@pytest.mark.parametrize("stem", STEMS)
def test_stubs_name_exactly_the_messages_of_their_file(stem: str) -> None:
    stub = resources.files("coord.wire").joinpath(f"{stem}_pb2.pyi").read_text(encoding="utf-8")
    classes = {
        node.name: node
        for node in ast.parse(stub).body
        if isinstance(node, ast.ClassDef)
        and [ast.unparse(base) for base in node.bases] == ["_message.Message"]
    }
    messages = {message.name: message for message in file_of(stem).message_type}
    assert classes.keys() == messages.keys()
    for name, message in messages.items():
        numbers = {
            node.target.id
            for node in classes[name].body
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
        }
        wanted = {f"{field.name.upper()}_FIELD_NUMBER" for field in message.field}
        assert {number for number in numbers if number.endswith("_FIELD_NUMBER")} == wanted


def test_unknown_fields_of_a_newer_peer_are_no_error() -> None:
    newer = rpc_pb2.PutRequest(key=b"k").SerializeToString() + b"\xf8\x07\x01"
    assert rpc_pb2.PutRequest.FromString(newer).key == b"k"


def test_a_descriptor_set_with_anything_but_files_is_refused() -> None:
    file = b"\x0a\x03abc"
    assert list(_pool.split_files(file * 2)) == [b"abc", b"abc"]
    with pytest.raises(ValueError, match="byte 5 does not open a file"):
        list(_pool.split_files(file + b"\x10\x01"))
