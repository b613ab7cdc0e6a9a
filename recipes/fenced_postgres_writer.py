"""Transactions in PostgreSQL that only the holder of a lock can commit.

Problem: as in ``fenced_db_writer``, for a database that many processes write to, and for more than one statement:
a holder that slept through its lease must not commit anything, whatever tables it writes to.

Guarantee: each transaction begins with the lock's row in the table ``fence``, which keeps the highest token seen.
A lower token raises ``StaleWriter`` and the transaction is rolled back. The row stays locked until the transaction
ends, so a newer holder waits for an older transaction that has begun, and none begins after it: the transactions of
one lock happen in the order of their tokens.

On loss: the body of ``hold()`` is cancelled, the transaction with it, and ``LockLost`` is raised. A process that is
frozen inside a transaction would keep the row locked: PostgreSQL ends its connection after ``IDLE_MS``.

Run it: ``DATABASE_URL=postgresql://user@host/db python -m recipes.fenced_postgres_writer``; needs ``asyncpg``.
It makes a schema ``coord_recipe`` there, and removes it.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import asyncpg

import coord

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from asyncpg import Pool, Record
    from asyncpg.pool import PoolConnectionProxy

IDLE_MS = 15_000
"""As long as the session's time to live: nobody else needs the row before the lease has ended."""
FENCE_TABLE = "CREATE TABLE IF NOT EXISTS fence (lock text PRIMARY KEY, token bigint NOT NULL)"
FENCE = """
INSERT INTO fence (lock, token) VALUES ($1, $2)
ON CONFLICT (lock) DO UPDATE SET token = excluded.token WHERE fence.token <= excluded.token
RETURNING token
"""


class StaleWriter(RuntimeError):
    """Somebody with a higher token has written since: this writer lost its turn."""


def connect(url: str) -> Pool:
    """Return a pool whose transactions cannot outlive a frozen process by more than ``IDLE_MS``."""
    settings = {"idle_in_transaction_session_timeout": str(IDLE_MS), "search_path": "coord_recipe"}
    return asyncpg.create_pool(url, min_size=1, max_size=4, server_settings=settings)


@asynccontextmanager
async def fenced(pool: Pool, lock: str, token: int) -> AsyncGenerator[PoolConnectionProxy[Record]]:
    """Give a transaction that commits only if no higher token of ``lock`` was here before. Raises StaleWriter."""
    async with pool.acquire() as connection, connection.transaction():
        if await connection.fetchval(FENCE, lock, token) is None:
            raise StaleWriter(f"{lock}: token {token} is older than the last writer's")
        yield connection


async def write(pool: Pool, lock: str, token: int, body: str) -> None:
    """Write the report and a line of the journal, both or none."""
    async with fenced(pool, lock, token) as transaction:
        await transaction.execute("UPDATE report SET body = $1", body)
        await transaction.execute("INSERT INTO journal (line) VALUES ($1)", body)


async def prepare(pool: Pool) -> None:
    await pool.execute("DROP SCHEMA IF EXISTS coord_recipe CASCADE")
    await pool.execute("CREATE SCHEMA coord_recipe")
    await pool.execute(FENCE_TABLE)
    await pool.execute("CREATE TABLE report (body text NOT NULL)")
    await pool.execute("CREATE TABLE journal (n serial PRIMARY KEY, line text NOT NULL)")
    await pool.execute("INSERT INTO report VALUES ('empty')")


async def main() -> None:
    name = "recipes/fenced-postgres-writer"
    url = os.environ.get("DATABASE_URL", "postgresql://localhost/postgres")
    async with connect(url) as pool, coord.connect() as client:
        await prepare(pool)
        async with client.mutex(name).hold(timeout=30) as grant:
            await write(pool, name, grant.token, "first")
            old_token = grant.token

        async with client.mutex(name).hold(timeout=30) as grant:
            await write(pool, name, grant.token, "second")

        # The first writer wakes up late and believes that it still holds the lock.
        try:
            await write(pool, name, old_token, "late")
        except StaleWriter:
            print("the late writer was refused")

        print("the report says:", await pool.fetchval("SELECT body FROM report"))
        lines = await pool.fetch("SELECT line FROM journal ORDER BY n")
        print("the journal says:", ", ".join(line["line"] for line in lines))
        await pool.execute("DROP SCHEMA coord_recipe CASCADE")


if __name__ == "__main__":
    asyncio.run(main())
