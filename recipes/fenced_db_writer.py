"""One process at a time writes to a database, and the database refuses a writer that lost its turn.

Problem: a mutex alone cannot protect a database. A holder can be paused (garbage collection, a laptop lid, a
frozen host) for longer than its lease, wake up, and write although somebody else holds the lock by now.

Guarantee: a row remembers the highest fencing token that wrote to it; a write with a lower one changes nothing
and raises ``StaleWriter``. Tokens of one lock only rise, so a late writer can never win.

On loss: the body of ``hold()`` is cancelled and ``LockLost`` is raised from the ``async with``; a write that was
already on its way is refused by the row.

Run it: ``python -m recipes.fenced_db_writer``
"""

from __future__ import annotations

import asyncio
import sqlite3

import coord

SCHEMA = "CREATE TABLE report (name TEXT PRIMARY KEY, body TEXT NOT NULL, fence INTEGER NOT NULL)"
WRITE = """
INSERT INTO report (name, body, fence) VALUES (:name, :body, :token)
ON CONFLICT (name) DO UPDATE SET body = excluded.body, fence = excluded.fence
WHERE excluded.fence >= report.fence
"""


class StaleWriter(RuntimeError):
    """Somebody with a higher token has written since: this writer lost its turn."""


def write_report(database: sqlite3.Connection, name: str, body: str, token: int) -> None:
    """Write ``body`` under ``name``. Raises StaleWriter if a higher token was here before."""
    with database:
        changed = database.execute(WRITE, {"name": name, "body": body, "token": token}).rowcount
    if changed == 0:
        raise StaleWriter(f"{name}: token {token} is older than the last writer's")


async def main() -> None:
    database = sqlite3.connect(":memory:")
    database.execute(SCHEMA)
    async with coord.connect() as client:
        lock = client.mutex("recipes/fenced-db-writer")

        async with lock.hold(timeout=30) as grant:
            write_report(database, "nightly", "first", grant.token)
            old_token = grant.token

        async with lock.hold(timeout=30) as grant:
            write_report(database, "nightly", "second", grant.token)

        # The first writer wakes up late and believes that it still holds the lock.
        try:
            write_report(database, "nightly", "late", old_token)
        except StaleWriter:
            print("the late writer was refused")

    (body,) = database.execute("SELECT body FROM report WHERE name = 'nightly'").fetchone()
    print("the report says:", body)
    database.close()


if __name__ == "__main__":
    asyncio.run(main())
