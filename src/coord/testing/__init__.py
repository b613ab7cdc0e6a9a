"""What proves the rest right, importable so that users can prove their own programs.

The problem: a coordination system is trusted for what happens in the rare schedules, and those are
neither found by example tests nor judged by eye. So this room makes the schedules and holds the judges.

For tests of programs that use ``coord`` there are real servers and clusters (``local``), lost and late requests
(``faults``), a store whose time the test moves (``memory``), and the fixtures of all these for pytest (``plugin``):

    with coord.testing.cluster(3) as cluster, coord.sync.connect(cluster.endpoints) as client:
        cluster.kill("leader")
        client.put("k", "v")

For judging there are models and checkers.
Vocabulary: a *model* is the store said as simply as possible, one request after the other, without
speed, disk or network; whatever the server answers must be what the model answers. A *history*
(``history``) is what clients of a run sent and received, a *recorded client* (``recording``) writes it,
and a *checker* (``check``) tells whether it keeps what the store promises:

    recorder = Recorder()
    async with coord.connect() as client:
        main = RecordedClient(client, recorder, "main")
        async with main.witness() as witness:
            await program(client, recorder)  # with a RecordedClient for each of its tasks
            last = await main.put("end", "")
            await witness.read_to(last.revision, timeout=10)
    for verdict in judge(recorder.records).values():
        verdict.raise_if_bad()

Invariants: nothing here is imported by the product but ``chaos``, by ``coord cluster``, and a model shares no code with what it judges
beyond the wire messages. Names are loaded when they are first used: pytest imports this package in every suite.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from coord.testing.chaos import MemberFailed, WaitedTooLong
    from coord.testing.faults import Call, FaultRule, Faults, StatusCode
    from coord.testing.local import (
        AsyncCluster,
        AsyncServer,
        Cluster,
        Proxy,
        Server,
        cluster,
        proxy,
        server,
    )
    from coord.testing.memory import MemoryWorld
    from coord.testing.stopped import Clock
    from coord.testing.virtual import VirtualLoop, run_virtual

_HOMES = {
    "coord.testing.chaos": ("MemberFailed", "WaitedTooLong"),
    "coord.testing.faults": ("Call", "FaultRule", "Faults", "StatusCode"),
    "coord.testing.local": (
        "AsyncCluster",
        "AsyncServer",
        "Cluster",
        "Proxy",
        "Server",
        "cluster",
        "proxy",
        "server",
    ),
    "coord.testing.memory": ("MemoryWorld",),
    "coord.testing.stopped": ("Clock",),
    "coord.testing.virtual": ("VirtualLoop", "run_virtual"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "AsyncCluster",
    "AsyncServer",
    "Call",
    "Clock",
    "Cluster",
    "FaultRule",
    "Faults",
    "MemberFailed",
    "MemoryWorld",
    "Proxy",
    "Server",
    "StatusCode",
    "VirtualLoop",
    "WaitedTooLong",
    "cluster",
    "proxy",
    "run_virtual",
    "server",
]


def __getattr__(name: str) -> object:
    """Load a public name on first use."""
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'coord.testing' has no attribute {name!r}")
    value: object = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted(__all__)
