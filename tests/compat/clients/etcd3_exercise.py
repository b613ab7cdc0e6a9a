"""What python-etcd3 offers, once through; prints what it sees. Arguments: host and port.

Its generated code needs protobuf's pure Python implementation, which the caller chooses by environment.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

# The package has no types.
etcd3: Any = importlib.import_module("etcd3")


def pair(value: bytes | None, meta: Any) -> object:  # noqa: ANN401
    if meta is None:
        return value
    return meta.key, value, meta.create_revision, meta.mod_revision, meta.version


def keys(client: Any) -> None:  # noqa: ANN401
    print("put", client.put("k/1", "one").header.revision)
    print("put", client.put("k/1", "uno", prev_kv=True).prev_kv.value)
    print("create", client.put_if_not_exists("k/2", "two"), client.put_if_not_exists("k/2", "x"))
    print("get", pair(*client.get("k/1")), pair(*client.get("missing")))
    print("prefix", [pair(*found) for found in client.get_prefix("k/")])
    found = client.get_range("k/", "k0", sort_order="descend", sort_target="value")
    print("sorted", [pair(*each) for each in found])
    print("replace", client.replace("k/2", "two", "dos"), client.replace("k/2", "two", "dos"))
    print("delete", client.delete("k/1"), client.delete("k/1"))
    print("delete", client.delete_prefix("k/").deleted)


def transactions(client: Any) -> None:  # noqa: ANN401
    of = client.transactions
    for _ in range(2):
        done, parts = client.transaction(
            compare=[of.version("t") == 0],
            success=[of.put("t", "new"), of.get("t")],
            failure=[of.get("t"), of.delete("t")],
        )
        # Only ranges come as lists; the rest are bare messages.
        found: list[list[Any]] = [part for part in parts if isinstance(part, list)]
        print("txn", done, [[pair(*kv) for kv in part] for part in found])


def watches(client: Any) -> None:  # noqa: ANN401
    client.put("w/1", "before")
    events, cancel = client.watch_prefix("w/", prev_kv=True)
    client.put("w/1", "after")
    client.put("w/2", "new")
    client.delete("w/1")
    for _ in range(3):
        event = next(events)
        print("event", type(event).__name__, event.key, event.value, event.prev_value)
    cancel()


def leases(client: Any) -> None:  # noqa: ANN401
    lease = client.lease(600)
    client.put("leased", "v", lease)
    print("lease", lease.granted_ttl, lease.remaining_ttl > 500, list(lease.keys))
    print("refresh", [answer.TTL for answer in lease.refresh()])
    lease.revoke()
    print("revoked", client.get("leased")[0])


def locks(client: Any) -> None:  # noqa: ANN401
    first, second = client.lock("lock", ttl=600), client.lock("lock", ttl=600)
    print("lock", first.acquire(), first.is_acquired(), second.is_acquired())
    # Waiting for a lock is broken in this package, with the tenacity that exists today.
    print("release", first.release(), first.release())
    print("lock", second.acquire(), second.is_acquired(), second.release())


def rest(client: Any) -> None:  # noqa: ANN401
    print("members", len(list(client.members)))
    print("leader", client.status().leader is not None)
    client.compact(5, physical=True)
    try:
        client.compact(5)
    except Exception as error:  # noqa: BLE001 - whatever it makes of the refusal
        print("compact", type(error).__name__)


client: Any = etcd3.client(host=sys.argv[1], port=int(sys.argv[2]), timeout=30)
for part in (keys, transactions, watches, leases, locks, rest):
    part(client)
client.close()
