# mypy: disable-error-code="explicit-override"
# pyright: reportIncompatibleVariableOverride=false, reportPrivateUsage=false
"""Written by ``tools/proto.py`` with mypy-protobuf: do not edit.

The two records of the key space: a key with its counters, and a change of one."""

from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
import builtins as _builtins
import sys
import typing as _typing

if sys.version_info >= (3, 11):
    from typing import TypeAlias as _TypeAlias, Never as _Never
else:
    from typing_extensions import TypeAlias as _TypeAlias, Never as _Never

DESCRIPTOR: _descriptor.FileDescriptor

@_typing.final
class KeyValue(_message.Message):
    DESCRIPTOR: _descriptor.Descriptor

    KEY_FIELD_NUMBER: _builtins.int
    CREATE_REVISION_FIELD_NUMBER: _builtins.int
    MOD_REVISION_FIELD_NUMBER: _builtins.int
    VERSION_FIELD_NUMBER: _builtins.int
    VALUE_FIELD_NUMBER: _builtins.int
    LEASE_FIELD_NUMBER: _builtins.int
    key: _builtins.bytes
    create_revision: _builtins.int
    mod_revision: _builtins.int
    version: _builtins.int
    value: _builtins.bytes
    lease: _builtins.int
    def __init__(
        self,
        *,
        key: _builtins.bytes = ...,
        create_revision: _builtins.int = ...,
        mod_revision: _builtins.int = ...,
        version: _builtins.int = ...,
        value: _builtins.bytes = ...,
        lease: _builtins.int = ...,
    ) -> None: ...
    _HasFieldArgType: _TypeAlias = _Never  # noqa: Y015
    def HasField(self, field_name: _HasFieldArgType) -> _builtins.bool: ...
    _ClearFieldArgType: _TypeAlias = _typing.Literal["create_revision", b"create_revision", "key", b"key", "lease", b"lease", "mod_revision", b"mod_revision", "value", b"value", "version", b"version"]  # noqa: Y015
    def ClearField(self, field_name: _ClearFieldArgType) -> None: ...
    def WhichOneof(self, oneof_group: _Never) -> None: ...

Global___KeyValue: _TypeAlias = KeyValue  # noqa: Y015

@_typing.final
class Event(_message.Message):
    DESCRIPTOR: _descriptor.Descriptor

    class _EventType:
        ValueType = _typing.NewType("ValueType", _builtins.int)
        V: _TypeAlias = ValueType  # noqa: Y015

    class _EventTypeEnumTypeWrapper(_enum_type_wrapper._EnumTypeWrapper[Event._EventType.ValueType], _builtins.type):
        DESCRIPTOR: _descriptor.EnumDescriptor
        PUT: Event._EventType.ValueType  # 0
        DELETE: Event._EventType.ValueType  # 1

    class EventType(_EventType, metaclass=_EventTypeEnumTypeWrapper): ...
    PUT: Event.EventType.ValueType  # 0
    DELETE: Event.EventType.ValueType  # 1

    TYPE_FIELD_NUMBER: _builtins.int
    KV_FIELD_NUMBER: _builtins.int
    PREV_KV_FIELD_NUMBER: _builtins.int
    type: Global___Event.EventType.ValueType
    @_builtins.property
    def kv(self) -> Global___KeyValue:
        """For a DELETE only key and mod_revision are set."""

    @_builtins.property
    def prev_kv(self) -> Global___KeyValue: ...
    def __init__(
        self,
        *,
        type: Global___Event.EventType.ValueType = ...,
        kv: Global___KeyValue | None = ...,
        prev_kv: Global___KeyValue | None = ...,
    ) -> None: ...
    _HasFieldArgType: _TypeAlias = _typing.Literal["kv", b"kv", "prev_kv", b"prev_kv"]  # noqa: Y015
    def HasField(self, field_name: _HasFieldArgType) -> _builtins.bool: ...
    _ClearFieldArgType: _TypeAlias = _typing.Literal["kv", b"kv", "prev_kv", b"prev_kv", "type", b"type"]  # noqa: Y015
    def ClearField(self, field_name: _ClearFieldArgType) -> None: ...
    def WhichOneof(self, oneof_group: _Never) -> None: ...

Global___Event: _TypeAlias = Event  # noqa: Y015
