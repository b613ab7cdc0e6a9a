"""Our blocking SDK as a client: ``python -m benchmarks.clients.sdk_sync URL ROW CALLERS UNTIL``.

Many callers are many threads on one client.
"""

from __future__ import annotations

import sys
import threading

import coord
import coord.sync
from benchmarks.clients.load import Arrivals, closed_threads, ready, report

VALUE = b"x" * 64


def calls(client: coord.sync.Client, row: str, callers: int, until: str) -> dict[str, float]:
    def put(_: int, number: int) -> None:
        client.put(b"/bench/%08d" % (number % 10_000), VALUE)

    def get(_: int, number: int) -> None:
        client.get(b"/bench/%08d" % (number % 10_000))

    def txn(_: int, number: int) -> None:
        key = b"/bench/%08d" % (number % 10_000)
        builder = client.txn().when(coord.compare.version(key) > -1)
        builder.then(coord.op.put(key, VALUE), coord.op.get(key)).commit()

    call = {"put": put, "get": get, "txn": txn}[row]
    for warm in range(50):
        get(0, warm)
    return closed_threads(call, callers=callers, until=until)


def lock_cycles(client: coord.sync.Client, callers: int, until: str) -> dict[str, float]:
    """Lock and unlock, every caller its own name with a session of its own."""
    sessions = [client.session(ttl=30) for _ in range(callers)]
    for session in sessions:
        session.open()
    mutexes = [client.mutex(f"bench/sync{i}", session=s) for i, s in enumerate(sessions)]

    def cycle(caller: int, _: int) -> None:
        mutexes[caller].acquire().release()

    result = closed_threads(cycle, callers=callers, until=until)
    for session in sessions:
        session.close()
    return result


def watched(client: coord.sync.Client, watchers: int, each: int) -> dict[str, float]:
    """Receive ``each`` events, written by another process, at each of the watchers."""
    arrivals = Arrivals(watchers, each)
    counting = threading.Lock()
    all_watch = threading.Barrier(watchers + 1)

    def watcher() -> None:
        seen = 0
        with client.watch("/fan/", prefix=True) as watch:
            all_watch.wait()
            for _ in watch:
                with counting:
                    arrivals.note()
                seen += 1
                if seen >= each:
                    return

    threads = [threading.Thread(target=watcher) for _ in range(watchers)]
    for thread in threads:
        thread.start()
    all_watch.wait()
    ready()
    for thread in threads:
        thread.join()
    return arrivals.result()


def main() -> None:
    url, row, callers, until = sys.argv[1:5]
    with coord.sync.connect(url) as client:
        if row == "lock-own":
            report(lock_cycles(client, int(callers), until))
        elif row == "watched":
            report(watched(client, int(callers), int(until)))
        else:
            report(calls(client, row, int(callers), until))


if __name__ == "__main__":
    main()
