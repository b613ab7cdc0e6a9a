# mypy: disable-error-code="explicit-override"
# pyright: reportIncompatibleVariableOverride=false, reportPrivateUsage=false
"""Written by ``tools/proto.py`` with mypy-protobuf: do not edit.

The election service: campaign, proclaim, look, observe, resign."""

from coord.wire import kv_pb2 as _kv_pb2
from coord.wire import rpc_pb2 as _rpc_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
import builtins as _builtins
import sys
import typing as _typing

if sys.version_info >= (3, 11):
    from typing import TypeAlias as _TypeAlias, Never as _Never
else:
    from typing_extensions import TypeAlias as _TypeAlias, Never as _Never

DESCRIPTOR: _descriptor.FileDescriptor

@_typing.final
class LeaderKey(_message.Message):
    DESCRIPTOR: _descriptor.Descriptor

    NAME_FIELD_NUMBER: _builtins.int
    KEY_FIELD_NUMBER: _builtins.int
    REV_FIELD_NUMBER: _builtins.int
    LEASE_FIELD_NUMBER: _builtins.int
    name: _builtins.bytes
    key: _builtins.bytes
    rev: _builtins.int
    lease: _builtins.int
    def __init__(
        self,
        *,
        name: _builtins.bytes = ...,
        key: _builtins.bytes = ...,
        rev: _builtins.int = ...,
        lease: _builtins.int = ...,
    ) -> None: ...
    _HasFieldArgType: _TypeAlias = _Never  # noqa: Y015
    def HasField(self, field_name: _HasFieldArgType) -> _builtins.bool: ...
    _ClearFieldArgType: _TypeAlias = _typing.Literal["key", b"key", "lease", b"lease", "name", b"name", "rev", b"rev"]  # noqa: Y015
    def ClearField(self, field_name: _ClearFieldArgType) -> None: ...
    def WhichOneof(self, oneof_group: _Never) -> None: ...

Global___LeaderKey: _TypeAlias = LeaderKey  # noqa: Y015

@_typing.final
class CampaignRequest(_message.Message):
    DESCRIPTOR: _descriptor.Descriptor

    NAME_FIELD_NUMBER: _builtins.int
    LEASE_FIELD_NUMBER: _builtins.int
    VALUE_FIELD_NUMBER: _builtins.int
    name: _builtins.bytes
    lease: _builtins.int
    value: _builtins.bytes
    def __init__(
        self,
        *,
        name: _builtins.bytes = ...,
        lease: _builtins.int = ...,
        value: _builtins.bytes = ...,
    ) -> None: ...
    _HasFieldArgType: _TypeAlias = _Never  # noqa: Y015
    def HasField(self, field_name: _HasFieldArgType) -> _builtins.bool: ...
    _ClearFieldArgType: _TypeAlias = _typing.Literal["lease", b"lease", "name", b"name", "value", b"value"]  # noqa: Y015
    def ClearField(self, field_name: _ClearFieldArgType) -> None: ...
    def WhichOneof(self, oneof_group: _Never) -> None: ...

Global___CampaignRequest: _TypeAlias = CampaignRequest  # noqa: Y015

@_typing.final
class CampaignResponse(_message.Message):
    DESCRIPTOR: _descriptor.Descriptor

    HEADER_FIELD_NUMBER: _builtins.int
    LEADER_FIELD_NUMBER: _builtins.int
    @_builtins.property
    def header(self) -> _rpc_pb2.ResponseHeader: ...
    @_builtins.property
    def leader(self) -> Global___LeaderKey: ...
    def __init__(
        self,
        *,
        header: _rpc_pb2.ResponseHeader | None = ...,
        leader: Global___LeaderKey | None = ...,
    ) -> None: ...
    _HasFieldArgType: _TypeAlias = _typing.Literal["header", b"header", "leader", b"leader"]  # noqa: Y015
    def HasField(self, field_name: _HasFieldArgType) -> _builtins.bool: ...
    _ClearFieldArgType: _TypeAlias = _typing.Literal["header", b"header", "leader", b"leader"]  # noqa: Y015
    def ClearField(self, field_name: _ClearFieldArgType) -> None: ...
    def WhichOneof(self, oneof_group: _Never) -> None: ...

Global___CampaignResponse: _TypeAlias = CampaignResponse  # noqa: Y015

@_typing.final
class LeaderRequest(_message.Message):
    DESCRIPTOR: _descriptor.Descriptor

    NAME_FIELD_NUMBER: _builtins.int
    name: _builtins.bytes
    def __init__(
        self,
        *,
        name: _builtins.bytes = ...,
    ) -> None: ...
    _HasFieldArgType: _TypeAlias = _Never  # noqa: Y015
    def HasField(self, field_name: _HasFieldArgType) -> _builtins.bool: ...
    _ClearFieldArgType: _TypeAlias = _typing.Literal["name", b"name"]  # noqa: Y015
    def ClearField(self, field_name: _ClearFieldArgType) -> None: ...
    def WhichOneof(self, oneof_group: _Never) -> None: ...

Global___LeaderRequest: _TypeAlias = LeaderRequest  # noqa: Y015

@_typing.final
class LeaderResponse(_message.Message):
    DESCRIPTOR: _descriptor.Descriptor

    HEADER_FIELD_NUMBER: _builtins.int
    KV_FIELD_NUMBER: _builtins.int
    @_builtins.property
    def header(self) -> _rpc_pb2.ResponseHeader: ...
    @_builtins.property
    def kv(self) -> _kv_pb2.KeyValue: ...
    def __init__(
        self,
        *,
        header: _rpc_pb2.ResponseHeader | None = ...,
        kv: _kv_pb2.KeyValue | None = ...,
    ) -> None: ...
    _HasFieldArgType: _TypeAlias = _typing.Literal["header", b"header", "kv", b"kv"]  # noqa: Y015
    def HasField(self, field_name: _HasFieldArgType) -> _builtins.bool: ...
    _ClearFieldArgType: _TypeAlias = _typing.Literal["header", b"header", "kv", b"kv"]  # noqa: Y015
    def ClearField(self, field_name: _ClearFieldArgType) -> None: ...
    def WhichOneof(self, oneof_group: _Never) -> None: ...

Global___LeaderResponse: _TypeAlias = LeaderResponse  # noqa: Y015

@_typing.final
class ResignRequest(_message.Message):
    DESCRIPTOR: _descriptor.Descriptor

    LEADER_FIELD_NUMBER: _builtins.int
    @_builtins.property
    def leader(self) -> Global___LeaderKey: ...
    def __init__(
        self,
        *,
        leader: Global___LeaderKey | None = ...,
    ) -> None: ...
    _HasFieldArgType: _TypeAlias = _typing.Literal["leader", b"leader"]  # noqa: Y015
    def HasField(self, field_name: _HasFieldArgType) -> _builtins.bool: ...
    _ClearFieldArgType: _TypeAlias = _typing.Literal["leader", b"leader"]  # noqa: Y015
    def ClearField(self, field_name: _ClearFieldArgType) -> None: ...
    def WhichOneof(self, oneof_group: _Never) -> None: ...

Global___ResignRequest: _TypeAlias = ResignRequest  # noqa: Y015

@_typing.final
class ResignResponse(_message.Message):
    DESCRIPTOR: _descriptor.Descriptor

    HEADER_FIELD_NUMBER: _builtins.int
    @_builtins.property
    def header(self) -> _rpc_pb2.ResponseHeader: ...
    def __init__(
        self,
        *,
        header: _rpc_pb2.ResponseHeader | None = ...,
    ) -> None: ...
    _HasFieldArgType: _TypeAlias = _typing.Literal["header", b"header"]  # noqa: Y015
    def HasField(self, field_name: _HasFieldArgType) -> _builtins.bool: ...
    _ClearFieldArgType: _TypeAlias = _typing.Literal["header", b"header"]  # noqa: Y015
    def ClearField(self, field_name: _ClearFieldArgType) -> None: ...
    def WhichOneof(self, oneof_group: _Never) -> None: ...

Global___ResignResponse: _TypeAlias = ResignResponse  # noqa: Y015

@_typing.final
class ProclaimRequest(_message.Message):
    DESCRIPTOR: _descriptor.Descriptor

    LEADER_FIELD_NUMBER: _builtins.int
    VALUE_FIELD_NUMBER: _builtins.int
    value: _builtins.bytes
    @_builtins.property
    def leader(self) -> Global___LeaderKey: ...
    def __init__(
        self,
        *,
        leader: Global___LeaderKey | None = ...,
        value: _builtins.bytes = ...,
    ) -> None: ...
    _HasFieldArgType: _TypeAlias = _typing.Literal["leader", b"leader"]  # noqa: Y015
    def HasField(self, field_name: _HasFieldArgType) -> _builtins.bool: ...
    _ClearFieldArgType: _TypeAlias = _typing.Literal["leader", b"leader", "value", b"value"]  # noqa: Y015
    def ClearField(self, field_name: _ClearFieldArgType) -> None: ...
    def WhichOneof(self, oneof_group: _Never) -> None: ...

Global___ProclaimRequest: _TypeAlias = ProclaimRequest  # noqa: Y015

@_typing.final
class ProclaimResponse(_message.Message):
    DESCRIPTOR: _descriptor.Descriptor

    HEADER_FIELD_NUMBER: _builtins.int
    @_builtins.property
    def header(self) -> _rpc_pb2.ResponseHeader: ...
    def __init__(
        self,
        *,
        header: _rpc_pb2.ResponseHeader | None = ...,
    ) -> None: ...
    _HasFieldArgType: _TypeAlias = _typing.Literal["header", b"header"]  # noqa: Y015
    def HasField(self, field_name: _HasFieldArgType) -> _builtins.bool: ...
    _ClearFieldArgType: _TypeAlias = _typing.Literal["header", b"header"]  # noqa: Y015
    def ClearField(self, field_name: _ClearFieldArgType) -> None: ...
    def WhichOneof(self, oneof_group: _Never) -> None: ...

Global___ProclaimResponse: _TypeAlias = ProclaimResponse  # noqa: Y015
