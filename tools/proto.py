"""Write what ``coord.wire`` derives from its ``.proto`` files, or check that it is current.

``python tools/proto.py`` runs protoc (from grpcio-tools) with mypy-protobuf and writes
``descriptors.bin``, the ``*_pb2.py`` modules and their ``*_pb2.pyi`` stubs into ``src/coord/wire``.
``python tools/proto.py --check`` writes nothing, names the files that differ and exits 1 if any does.
"""

# ruff: noqa: INP001 - a script, run by its path, in a folder that is no package.

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import sysconfig
import tempfile
from importlib import resources
from pathlib import Path

from google.protobuf import descriptor_pb2

WIRE = Path(__file__).resolve().parent.parent / "src" / "coord" / "wire"
PROTOS = WIRE / "proto"
# Files are known to protoc, and so to the descriptors and the stubs' imports, by this path.
VIRTUAL = "coord/wire"

MODULE = '''\
"""The message classes of ``proto/{stem}.proto``. Written by ``tools/proto.py``: do not edit."""

from coord.wire._pool import publish

publish("{virtual}/{stem}.proto", globals())
'''


def main(arguments: list[str] | None = None) -> int:
    """Write or check the derived files; return the exit status."""
    parser = argparse.ArgumentParser(description="Derive coord.wire from its .proto files.")
    parser.add_argument("--check", action="store_true", help="only name the files that differ")
    options = parser.parse_args(arguments)
    wanted = derive()
    stale = sorted(differing(wanted))
    if options.check:
        for name in stale:
            print(f"{name} is not what tools/proto.py writes", file=sys.stderr)  # noqa: T201
        return 1 if stale else 0
    for name in stale:
        target = WIRE / name
        if name in wanted:
            target.write_bytes(wanted[name])
        else:
            target.unlink()
    return 0


def differing(wanted: dict[str, bytes]) -> set[str]:
    """Names of derived files that are missing, differ from ``wanted``, or should not be there."""
    present = {path.name: path.read_bytes() for path in WIRE.glob("*_pb2.py*")}
    data = WIRE / "descriptors.bin"
    if data.exists():
        present[data.name] = data.read_bytes()
    return {
        name for name in wanted.keys() | present.keys() if wanted.get(name) != present.get(name)
    }


def derive() -> dict[str, bytes]:
    """Run protoc and return the derived files by name."""
    stems = sorted(path.stem for path in PROTOS.glob("*.proto"))
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch)
        run_protoc(stems, out)
        files = {"descriptors.bin": normalised((out / "descriptors.bin").read_bytes())}
        for stem in stems:
            stub = (out / VIRTUAL / f"{stem}_pb2.pyi").read_text(encoding="utf-8")
            files[f"{stem}_pb2.pyi"] = tidy(stub).encode()
            files[f"{stem}_pb2.py"] = MODULE.format(stem=stem, virtual=VIRTUAL).encode()
    return files


def run_protoc(stems: list[str], out: Path) -> None:
    """Compile every file of ``stems`` into ``out``; protoc's own messages appear only on failure."""
    plugin = Path(sysconfig.get_path("scripts")) / "protoc-gen-mypy"
    command = [
        sys.executable,
        "-m",
        "grpc_tools.protoc",
        f"--proto_path={VIRTUAL}={PROTOS}",
        f"--proto_path={resources.files('grpc_tools') / '_proto'}",
        f"--descriptor_set_out={out / 'descriptors.bin'}",
        f"--plugin=protoc-gen-mypy={plugin}",
        f"--mypy_out=quiet:{out}",
        *(f"{VIRTUAL}/{stem}.proto" for stem in stems),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise SystemExit(done.stderr)


def normalised(descriptor_set: bytes) -> bytes:
    """Order the files by dependency and serialize them so that the protoc version hardly shows.

    Source positions and JSON names are dropped: the first are comments, the second follow from the
    field names, and the runtime fills them in.
    """
    parsed = descriptor_pb2.FileDescriptorSet.FromString(descriptor_set)
    waiting = {file.name: file for file in sorted(parsed.file, key=lambda file: file.name)}
    ordered = descriptor_pb2.FileDescriptorSet()
    while waiting:
        name = next(
            name
            for name, file in waiting.items()
            if not any(dependency in waiting for dependency in file.dependency)
        )
        file = waiting.pop(name)
        file.ClearField("source_code_info")
        for message in file.message_type:
            for field in message.field:
                field.ClearField("json_name")
        ordered.file.append(file)
    return ordered.SerializeToString(deterministic=True)


def tidy(stub: str) -> str:
    """Give a stub of mypy-protobuf a header of ours.

    It names our tool, and tells the checkers of three habits of that generator: overrides are not
    marked (mypy), narrow the type of ``DESCRIPTOR`` and use protobuf's own private names (pyright).
    """
    return re.sub(
        r'\A"""\n@generated by mypy-protobuf\.  Do not edit manually!\nisort:skip_file\n',
        '# mypy: disable-error-code="explicit-override"\n'
        "# pyright: reportIncompatibleVariableOverride=false, reportPrivateUsage=false\n"
        '"""Written by ``tools/proto.py`` with mypy-protobuf: do not edit.\n\n',
        stub,
    )


if __name__ == "__main__":
    sys.exit(main())
