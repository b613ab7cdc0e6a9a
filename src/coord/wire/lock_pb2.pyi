# mypy: disable-error-code="explicit-override"
# pyright: reportIncompatibleVariableOverride=false, reportPrivateUsage=false
"""Written by ``tools/proto.py`` with mypy-protobuf: do not edit.

The lock service: one call that waits until the key is owned, one that gives it back."""

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
class LockRequest(_message.Message):
    DESCRIPTOR: _descriptor.Descriptor

    NAME_FIELD_NUMBER: _builtins.int
    LEASE_FIELD_NUMBER: _builtins.int
    name: _builtins.bytes
    lease: _builtins.int
    def __init__(
        self,
        *,
        name: _builtins.bytes = ...,
        lease: _builtins.int = ...,
    ) -> None: ...
    _HasFieldArgType: _TypeAlias = _Never  # noqa: Y015
    def HasField(self, field_name: _HasFieldArgType) -> _builtins.bool: ...
    _ClearFieldArgType: _TypeAlias = _typing.Literal["lease", b"lease", "name", b"name"]  # noqa: Y015
    def ClearField(self, field_name: _ClearFieldArgType) -> None: ...
    def WhichOneof(self, oneof_group: _Never) -> None: ...

Global___LockRequest: _TypeAlias = LockRequest  # noqa: Y015

@_typing.final
class LockResponse(_message.Message):
    DESCRIPTOR: _descriptor.Descriptor

    HEADER_FIELD_NUMBER: _builtins.int
    KEY_FIELD_NUMBER: _builtins.int
    key: _builtins.bytes
    @_builtins.property
    def header(self) -> _rpc_pb2.ResponseHeader: ...
    def __init__(
        self,
        *,
        header: _rpc_pb2.ResponseHeader | None = ...,
        key: _builtins.bytes = ...,
    ) -> None: ...
    _HasFieldArgType: _TypeAlias = _typing.Literal["header", b"header"]  # noqa: Y015
    def HasField(self, field_name: _HasFieldArgType) -> _builtins.bool: ...
    _ClearFieldArgType: _TypeAlias = _typing.Literal["header", b"header", "key", b"key"]  # noqa: Y015
    def ClearField(self, field_name: _ClearFieldArgType) -> None: ...
    def WhichOneof(self, oneof_group: _Never) -> None: ...

Global___LockResponse: _TypeAlias = LockResponse  # noqa: Y015

@_typing.final
class UnlockRequest(_message.Message):
    DESCRIPTOR: _descriptor.Descriptor

    KEY_FIELD_NUMBER: _builtins.int
    key: _builtins.bytes
    def __init__(
        self,
        *,
        key: _builtins.bytes = ...,
    ) -> None: ...
    _HasFieldArgType: _TypeAlias = _Never  # noqa: Y015
    def HasField(self, field_name: _HasFieldArgType) -> _builtins.bool: ...
    _ClearFieldArgType: _TypeAlias = _typing.Literal["key", b"key"]  # noqa: Y015
    def ClearField(self, field_name: _ClearFieldArgType) -> None: ...
    def WhichOneof(self, oneof_group: _Never) -> None: ...

Global___UnlockRequest: _TypeAlias = UnlockRequest  # noqa: Y015

@_typing.final
class UnlockResponse(_message.Message):
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

Global___UnlockResponse: _TypeAlias = UnlockResponse  # noqa: Y015
