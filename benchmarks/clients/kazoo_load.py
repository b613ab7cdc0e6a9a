"""kazoo on ZooKeeper: ``python -m benchmarks.clients.kazoo_load HOST PORT ROW CALLERS UNTIL``. Callers are threads."""

# ruff: noqa: ANN401 - the package is in an environment that the checkers do not see
from __future__ import annotations

import importlib
import sys
import threading
from typing import TYPE_CHECKING, Any

from benchmarks.clients.effects import Inside, Items
from benchmarks.clients.load import closed_threads, report

if TYPE_CHECKING:
    from collections.abc import Callable

kazoo: Any = importlib.import_module("kazoo.client")  # in an environment of its own
PERMITS = 4
SESSION_TTL_S = 30.0


def guarded(locks: list[Any], inside: list[Inside]) -> Callable[[int, int], object]:
    def cycle(caller: int, _: int) -> None:
        with locks[caller]:
            inside[caller].enter()
            inside[caller].leave()

    return cycle


def lock(client: Any, callers: int, *, shared: bool) -> Callable[[int, int], object]:
    paths = ["/bench/one" if shared else f"/bench/own{n}" for n in range(callers)]
    inside = [Inside(1)] * callers if shared else [Inside(1) for _ in range(callers)]
    return guarded([client.Lock(path, str(n)) for n, path in enumerate(paths)], inside)


def campaign(client: Any, callers: int) -> Callable[[int, int], object]:
    elections = [client.Election("/bench/election", str(n)) for n in range(callers)]
    inside = Inside(1)

    def lead() -> None:
        inside.enter()
        inside.leave()

    return lambda caller, _: elections[caller].run(lead)


def semaphore(client: Any, callers: int) -> Callable[[int, int], object]:
    made = [client.Semaphore("/bench/permits", str(n), PERMITS) for n in range(callers)]
    return guarded(made, [Inside(PERMITS)] * callers)


def queue(client: Any, callers: int, items: Items) -> Callable[[int, int], object]:
    lines = [client.Queue("/bench/queue") for _ in range(callers)]  # one is not for several threads

    def cycle(caller: int, _: int) -> None:
        lines[caller].put(items.make())
        while (found := lines[caller].get()) is None:
            pass
        items.take(found)

    return cycle


def barrier(client: Any, parties: int, rounds: int) -> dict[str, float]:
    """Enter and leave together; an operation is one party in one round."""
    there = [0] * rounds
    guard = threading.Lock()

    def party(_: int, __: int) -> None:
        for number in range(rounds):
            gate = client.DoubleBarrier(f"/bench/barrier{number}", parties)
            with guard:
                there[number] += 1
            gate.enter()
            if there[number] != parties:
                raise ValueError("it opened before all were there")
            gate.leave()

    result = closed_threads(party, callers=parties, until="1")
    return result | {"ops": result["ops"] * rounds}


def run(hosts: str, row: str, callers: int, until: str) -> dict[str, float]:
    client = kazoo.KazooClient(hosts=hosts, timeout=SESSION_TTL_S)
    client.start()
    try:
        if row == "barrier":
            return barrier(client, callers, int(until))
        items = Items()
        call = {
            "lock-own": lambda: lock(client, callers, shared=False),
            "lock-one": lambda: lock(client, callers, shared=True),
            "campaign": lambda: campaign(client, callers),
            "semaphore": lambda: semaphore(client, callers),
            "queue": lambda: queue(client, callers, items),
        }[row]()
        each = until if until.endswith("s") else str(max(1, int(until) // callers))
        result = closed_threads(call, callers=callers, until=each)
        items.check_all_taken()
        return result
    finally:
        client.stop()


def main() -> None:
    host, port, row, callers, until = sys.argv[1:6]
    report(run(f"{host}:{port}", row, int(callers), until))


if __name__ == "__main__":
    main()
