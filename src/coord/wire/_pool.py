"""The private descriptor pool that holds the messages of the etcd v3 API.

The descriptors are package data, a serialized ``FileDescriptorSet`` whose files stand in dependency
order. They go into a pool of their own, never into the process-wide default pool: two packages that
both register a ``kv.proto`` there break each other, and every etcd client does. Classes made from
descriptors at run time also carry no version stamp, so one wheel serves protobuf 4.25 to 7.x.
"""

from __future__ import annotations

import pkgutil
from typing import TYPE_CHECKING, Any

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.protobuf.descriptor import FileDescriptor

_DESCRIPTORS = "descriptors.bin"
# Tag of FileDescriptorSet.file: field 1, length-delimited.
_FILE_TAG = 0x0A


def split_files(descriptor_set: bytes) -> Iterator[bytes]:
    """Yield the serialized files of a ``FileDescriptorSet``, in their order.

    Taken apart by hand, since ``descriptor_pb2`` would double the cost of the import. Raises
    ValueError when the bytes hold anything but files.
    """
    position = 0
    while position < len(descriptor_set):
        if descriptor_set[position] != _FILE_TAG:
            raise ValueError(f"{_DESCRIPTORS}: byte {position} does not open a file")
        position += 1
        length = shift = 0
        more = True
        while more:
            byte = descriptor_set[position]
            length |= (byte & 0x7F) << shift
            shift += 7
            position += 1
            more = byte > 0x7F
        yield descriptor_set[position : position + length]
        position += length


def _build() -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    # Not importlib.resources: every program that talks to a store would wait 10 ms for it.
    data = pkgutil.get_data("coord.wire", _DESCRIPTORS)
    if data is None:
        raise ImportError(f"coord.wire: the loader of this package cannot read {_DESCRIPTORS}")
    for file in split_files(data):
        pool.AddSerializedFile(file)
    return pool


POOL = _build()
"""The pool itself; the JSON gateway and reflection-like code look descriptors up here."""


def publish(file_name: str, namespace: dict[str, Any]) -> None:
    """Put the classes, enums and enum values of one file into a module's ``namespace``.

    The names are those that generated code has: each message class, an ``EnumTypeWrapper`` for each
    top-level enum and its values as plain numbers; nested enums hang on their message class.
    """
    file: FileDescriptor = POOL.FindFileByName(file_name)
    module = namespace["__name__"]
    namespace["DESCRIPTOR"] = file
    for name, message in file.message_types_by_name.items():
        made = message_factory.GetMessageClass(message)
        made.__module__ = module
        namespace[name] = made
    for name, enum in file.enum_types_by_name.items():
        namespace[name] = EnumTypeWrapper(enum)
        for value in enum.values:
            namespace[value.name] = value.number
