"""etcd3 (blocking) as a client: ``python -m benchmarks.clients.etcd3_load HOST PORT ROW CALLERS UNTIL``.

Many callers are many threads on one client, which its documentation calls thread-safe.
"""

# ruff: noqa: ANN401 - the package is in an environment that the checkers do not see
from __future__ import annotations

import importlib
import sys
import threading
import time
from typing import Any

from benchmarks.clients.load import Arrivals, closed_threads, ready, report, stay

etcd3: Any = importlib.import_module("etcd3")  # in an environment of its own
VALUE = b"x" * 64
LEASE_TTL_S = 9


def calls(client: Any, row: str, callers: int, until: str) -> dict[str, float]:
    def put(_: int, number: int) -> None:
        client.put(f"/bench/{number % 10_000:08}", VALUE)

    def get(_: int, number: int) -> None:
        client.get(f"/bench/{number % 10_000:08}")

    def txn(_: int, number: int) -> None:
        key = f"/bench/{number % 10_000:08}"
        client.transaction(
            compare=[client.transactions.version(key) > -1],
            success=[client.transactions.put(key, VALUE), client.transactions.get(key)],
            failure=[],
        )

    def lock(caller: int, _: int) -> None:
        with client.lock(f"bench/etcd3-{caller}", ttl=30):
            pass

    call = {"put": put, "get": get, "txn": txn, "lock-own": lock}[row]
    for warm in range(50):
        get(0, warm)
    return closed_threads(call, callers=callers, until=until)


def watch(client: Any, watchers: int, each: int) -> dict[str, float]:
    """Receive ``each`` events at each of the watchers."""
    arrivals = Arrivals(watchers, each)
    over = threading.Event()

    def note(answer: Any) -> None:
        if arrivals.note(len(answer.events)):
            over.set()

    for _ in range(watchers):
        client.add_watch_prefix_callback("/fan/", note)
    ready()
    over.wait()
    return arrivals.result()


def sessions(client: Any, count: int, until: str) -> None:
    """Keep leases alive: etcd3 leaves the loop to the program, here one thread for all."""
    leases = [client.lease(LEASE_TTL_S) for _ in range(count)]
    over = threading.Event()

    def keep() -> None:
        due = time.monotonic() + LEASE_TTL_S / 3
        while not over.wait(max(0.0, due - time.monotonic())):
            due += LEASE_TTL_S / 3
            for lease in leases:
                lease.refresh()

    keeper = threading.Thread(target=keep)
    keeper.start()
    start, cpu = time.perf_counter(), time.process_time()
    time.sleep(float(until.removesuffix("s")))
    report(
        {
            "ops": count,
            "seconds": time.perf_counter() - start,
            "cpu_s": time.process_time() - cpu,
            "p50_us": 0.0,
        }
    )
    stay()
    over.set()
    keeper.join()


def main() -> None:
    host, port, row, callers, until = sys.argv[1:6]
    client = etcd3.client(host=host, port=int(port))
    if row == "watched":
        report(watch(client, int(callers), int(until)))
    elif row == "sessions":
        sessions(client, int(callers), until)
    else:
        report(calls(client, row, int(callers), until))


if __name__ == "__main__":
    main()
