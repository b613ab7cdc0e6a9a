"""What a Python client of etcd weighs: ``python -m benchmarks.footprint``.

For ours, as the wheel that is built from this tree, and for the others, each in an environment of its own:

* import: milliseconds of ``import``, and the resident memory that it adds to the interpreter;
* first put: milliseconds from the start of the interpreter to the first acknowledged put, and the memory then, since
  what is not loaded by ``import`` may be loaded by use;
* the distribution's own file, the distributions that it brings along, and the room that all take when installed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.clients.environments import CACHE, CLIENTS, ROOT, folder, make, missing, python
from benchmarks.kept import keep
from tests.support.servers import clean_environment, real_etcd

RUN_TIMEOUT_S = 60.0
# What an environment has before anything is installed, and the loop that generators share.
NOT_ITS_OWN = frozenset({"pip", "setuptools", "wheel"})

IMPORT = """
import sys, time
def rss():
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * 4096
bare, start = rss(), time.perf_counter()
import {package}
{more}
print((time.perf_counter() - start) * 1e3, (rss() - bare) / 2**20)
"""

RSS = """
with open("/proc/self/statm") as f:
    print(int(f.read().split()[1]) * 4096 / 2**20)
"""

FIRST_PUT = {
    "coord": """
import asyncio, coord
async def main():
    async with coord.connect("http://{host}:{port}") as client:
        await client.put("footprint", "x")
asyncio.run(main())
""",
    "coord.sync": """
import coord.sync
with coord.sync.connect("http://{host}:{port}") as client:
    client.put("footprint", "x")
""",
    "aetcd": """
import asyncio, aetcd
async def main():
    async with aetcd.Client("{host}", {port}) as client:
        await client.put(b"footprint", b"x")
asyncio.run(main())
""",
    "etcd3": """
import etcd3
etcd3.client("{host}", {port}).put("footprint", "x")
""",
    "etcetra": """
import asyncio, etcetra
async def main():
    async with etcetra.EtcdClient(etcetra.HostPortPair("{host}", {port})).connect() as client:
        await client.put("footprint", "x")
asyncio.run(main())
""",
    "etcd_client": """
import asyncio, etcd_client
async def main():
    async with etcd_client.Client(["http://{host}:{port}"]).connect() as client:
        await client.put(b"footprint", b"x")
asyncio.run(main())
""",
}

PARTS = """
import importlib.metadata as metadata, json
found = {}
for part in metadata.distributions():
    files = [part.locate_file(file) for file in part.files or ()]
    # What pip compiled is counted with the rest.
    size = sum(f.stat().st_size for f in map(str_path, files) if f.exists())
    found[part.metadata["Name"].lower()] = [part.version, size]
print(json.dumps(found))
""".replace("str_path", "__import__('pathlib').Path")


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A client in an environment; ``package`` is what is imported."""

    name: str
    package: str
    home: Path
    distribution: str
    file: Path
    env: dict[str, str]


def run(subject: Subject, program: str) -> tuple[str, float]:
    """Run a program in the subject's environment; return its output and how long its process took, in ms."""
    timed = (
        "import subprocess, sys, time; start = time.perf_counter(); "
        "done = subprocess.run(sys.argv[1:], capture_output=True, text=True); "
        "print(json_dumps([done.returncode, done.stdout, done.stderr, (time.perf_counter() - start) * 1e3]))"
    ).replace("json_dumps", "__import__('json').dumps")
    answer = subprocess.run(
        [sys.executable, "-c", timed, python(subject.home), "-W", "ignore", "-c", program],
        capture_output=True,
        text=True,
        timeout=RUN_TIMEOUT_S,
        check=True,
        env=clean_environment(subject.env),
        cwd=subject.home,
    )
    code, out, err, took = json.loads(answer.stdout)
    if code != 0:
        raise SystemExit(f"{subject.name}: {err[-2000:]}")
    return out, took


def built_wheel() -> Path:
    """Build the wheel of this tree, once for what is in it."""
    seen = hashlib.sha256()
    for file in sorted((ROOT / "src").rglob("*.py")):
        seen.update(file.read_bytes())
    target = CACHE / f"wheel-{seen.hexdigest()[:12]}"
    if not list(target.glob("*.whl")):
        command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", str(target)]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=300)
    (wheel,) = target.glob("*.whl")
    return wheel


def downloaded(name: str) -> Path:
    """Return the file that pip installs for a distribution."""
    target = CACHE / f"file-{name}"
    if not target.exists():
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(target)]
        subprocess.run([*command, name], check=True, capture_output=True, timeout=300)
    (file,) = target.iterdir()
    return file


def subjects() -> list[Subject]:
    """Prepare ours, and the others as far as they can be installed."""
    wheel = built_wheel()
    home = wheel.parent / "installed"
    if not home.exists():
        lack = make(home, str(wheel))
        if lack is not None:
            raise SystemExit(f"coord: {lack}")
    found = [
        Subject(name=n, package=n, home=home, distribution="coord", file=wheel, env={})
        for n in ("coord", "coord.sync")
    ]
    for client in CLIENTS:
        lack = missing(client.name)
        if lack is not None:
            print(f"missing: {client.name}: {lack}")
            continue
        found.append(
            Subject(
                name=client.name.partition("==")[0],
                package=client.package,
                home=folder(client),
                distribution=client.name.partition("==")[0],
                file=downloaded(client.name),
                env=dict(client.env),
            )
        )
    return found


def weigh(subject: Subject, host: str, port: str, rounds: int) -> dict[str, object]:
    """Measure one client."""
    # Attributes of `coord` are loaded when they are first asked for; what everybody asks for is counted.
    more = "coord.connect, coord.Client" if subject.package == "coord" else ""
    program = IMPORT.format(package=subject.package, more=more)
    imports = [[float(x) for x in run(subject, program)[0].split()] for _ in range(rounds + 1)]
    puts = FIRST_PUT[subject.package].format(host=host, port=port)
    firsts = [(float(o), t) for o, t in (run(subject, puts + RSS) for _ in range(rounds))]
    parts: dict[str, tuple[str, int]] = json.loads(run(subject, PARTS)[0])
    own = {name: part for name, part in parts.items() if name not in NOT_ITS_OWN}
    if subject.distribution != "coord":
        own.pop("uvloop", None)  # ours to add, see environments.py
    return {
        "import_ms": statistics.median(i[0] for i in imports[1:]),
        "import_rss_mib": statistics.median(i[1] for i in imports[1:]),
        "first_put_ms": statistics.median(f[1] for f in firsts),
        "first_put_rss_mib": statistics.median(f[0] for f in firsts),
        "file_kib": subject.file.stat().st_size / 1024,
        "installed_mib": sum(size for _, size in own.values()) / 2**20,
        "dependencies": sorted(
            f"{n} {v}" for n, (v, _) in own.items() if n != subject.distribution
        ),
    }


def main() -> int:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.footprint")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    found: dict[str, object] = {}
    with (
        tempfile.TemporaryDirectory(prefix="coord-footprint-") as scratch,
        real_etcd(Path(scratch)) as etcd,
    ):
        host, _, port = etcd.endpoint.partition(":")
        print(f"{'':16} {'import ms':>9} {'MiB':>6} {'first put ms':>12} {'MiB':>6} "
              f"{'file KiB':>9} {'installed MiB':>13}  brings along")  # fmt: skip
        for subject in subjects():
            it = found[subject.name] = weigh(subject, host, port, options.rounds)
            brings = it["dependencies"]
            count = len(brings) if isinstance(brings, list) else 0
            print(f"{subject.name:16} {it['import_ms']:9.0f} {it['import_rss_mib']:6.1f} "
                  f"{it['first_put_ms']:12.0f} {it['first_put_rss_mib']:6.1f} {it['file_kib']:9.0f} "
                  f"{it['installed_mib']:13.1f}  {count}: {', '.join(map(str, brings)) if isinstance(brings, list) else ''}",
                  flush=True)  # fmt: skip
    keep("footprint", {"rounds": options.rounds, "clients": found})
    return 0


if __name__ == "__main__":
    sys.exit(main())
