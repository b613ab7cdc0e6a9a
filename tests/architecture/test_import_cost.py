"""Importing a package loads nothing slow: what is slow is imported where it is used."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

SLOW = (
    "bcrypt",
    "click",
    "cryptography",
    "dns",
    "google.protobuf.json_format",
    "grpc",
    "lmdb",
    "opentelemetry",
    "rich",
    "textual",
)


def loaded_by(statement: str) -> set[str]:
    program = f"{statement}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return set(json.loads(done.stdout))


# Names may be loaded at their first use: taking them all is what a program comes to in the end.
USES = ["import coord", "from coord import *", "import coord.sync", "from coord.sync import *"]


@pytest.mark.parametrize("statement", USES)
def test_import_of_the_sdk_is_light(statement: str) -> None:
    loaded = loaded_by(statement)
    assert "coord" in loaded
    assert [name for name in SLOW if name in loaded] == []
    assert [name for name in loaded if name.partition(".")[0] == "coord_server"] == []


def test_the_whole_face_loads_the_client() -> None:
    # Without this the test above could pass by loading nothing at all.
    assert "coord.client" in loaded_by("from coord import *")


def test_the_default_pool_stays_empty() -> None:
    # Another etcd client in the same process fills it with files of the same names.
    program = """
import coord
from coord.wire import rpc_pb2
from google.protobuf import descriptor_pool
pool = descriptor_pool.Default()
for name in ("kv.proto", "rpc.proto", "auth.proto"):
    try:
        pool.FindFileByName(name)
    except KeyError:
        continue
    raise SystemExit(f"{name} is in the default pool")
assert rpc_pb2.PutRequest.DESCRIPTOR.file.pool is not pool
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
