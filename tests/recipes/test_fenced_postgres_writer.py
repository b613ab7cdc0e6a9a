"""What PostgreSQL refuses, and whom it makes wait: the recipe's transactions on a real server."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator

import asyncpg
import pytest

import coord
from recipes import fenced_postgres_writer as recipe
from recipes.fenced_postgres_writer import StaleWriter, fenced, write
from tests.examples.test_examples import check_program
from tests.recipes.programs import end, line_of, start
from tests.support.servers import ServerProcess

LOCK = "tests/postgres"
# A holder that asks nobody before it writes: its write is "already on its way" when it is deposed.
HOLDER = """
import asyncio, os, sys
import coord
from recipes.fenced_postgres_writer import StaleWriter, connect, write

async def main():
    async with connect(os.environ["DATABASE_URL"]) as pool, coord.connect() as client:
        async with client.session(ttl=2) as session:
            grant = await client.mutex("tests/postgres", session=session).acquire()
            await write(pool, "tests/postgres", grant.token, "from the first holder")
            print("holding", flush=True)
            # Blocks the loop on purpose, as whatever had this process stopped would.
            sys.stdin.readline()
            try:
                await write(pool, "tests/postgres", grant.token, "late")
                print("written", flush=True)
            except StaleWriter:
                print("refused", flush=True)

asyncio.run(main())
"""


@pytest.fixture
async def pool(postgres_url: str) -> AsyncIterator[asyncpg.Pool]:
    async with recipe.connect(postgres_url) as made:
        await recipe.prepare(made)
        yield made


async def lines(pool: asyncpg.Pool) -> list[str]:
    return [row["line"] for row in await pool.fetch("SELECT line FROM journal ORDER BY n")]


def test_it_prints(postgres_url: str) -> None:
    check_program("recipes/fenced_postgres_writer.py", DATABASE_URL=postgres_url)


async def test_a_deposed_holder_is_refused_by_the_database(pool: asyncpg.Pool) -> None:
    async with coord.connect("memory:") as client, client.session() as other:
        old = await client.mutex(LOCK).acquire(timeout=10)
        await write(pool, LOCK, old.token, "old")
        mutex = client.mutex(LOCK, session=other)
        await mutex.break_lock(old.token, reason="a test")
        async with mutex.hold(timeout=10) as new:
            await write(pool, LOCK, new.token, "new")
            with pytest.raises(StaleWriter):
                await write(pool, LOCK, old.token, "late")
            await write(pool, LOCK, new.token, "new again")
    assert await lines(pool) == ["old", "new", "new again"]
    assert await pool.fetchval("SELECT body FROM report") == "new again"


async def test_a_refused_transaction_leaves_nothing(pool: asyncpg.Pool) -> None:
    await write(pool, LOCK, 7, "seven")
    with pytest.raises(StaleWriter):
        async with fenced(pool, LOCK, 6) as transaction:
            await transaction.execute("INSERT INTO journal (line) VALUES ('six')")
    await write(pool, "tests/another", 6, "tokens of another lock are its own")
    assert await lines(pool) == ["seven", "tokens of another lock are its own"]


async def test_a_transaction_that_fails_gives_its_token_back(pool: asyncpg.Pool) -> None:
    with pytest.raises(ZeroDivisionError):
        async with fenced(pool, LOCK, 7) as transaction:
            await transaction.execute("INSERT INTO journal (line) VALUES ('seven')")
            raise ZeroDivisionError
    await write(pool, LOCK, 6, "six")
    assert await lines(pool) == ["six"]


async def test_a_newer_holder_waits_for_an_older_transaction(pool: asyncpg.Pool) -> None:
    async with asyncio.TaskGroup() as group, fenced(pool, LOCK, 1) as old:
        newer = group.create_task(write(pool, LOCK, 2, "new"))
        while not await old.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
            assert not newer.done(), "the newer transaction did not wait"
        await old.execute("INSERT INTO journal (line) VALUES ('old')")
        assert not newer.done()
    assert await lines(pool) == ["old", "new"]


async def test_an_older_holder_that_waited_is_refused(pool: asyncpg.Pool) -> None:
    async with asyncio.TaskGroup() as group, fenced(pool, LOCK, 2) as new:
        older = group.create_task(write_or_be_refused(pool, 1))
        while not await new.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
            assert not older.done(), "the older transaction did not wait"
        await new.execute("INSERT INTO journal (line) VALUES ('new')")
    assert older.result() == "refused"
    assert await lines(pool) == ["new"]


async def write_or_be_refused(pool: asyncpg.Pool, token: int) -> str:
    try:
        await write(pool, LOCK, token, "late")
    except StaleWriter:
        return "refused"
    return "written"


@pytest.mark.processes
async def test_a_process_that_slept_is_refused(
    pool: asyncpg.Pool, postgres_url: str, coord_server: ServerProcess
) -> None:
    endpoint = coord_server.endpoint
    holder = start("-c", HOLDER, endpoint=endpoint, DATABASE_URL=postgres_url)
    try:
        assert await asyncio.to_thread(line_of, holder) == "holding"
        holder.send_signal(signal.SIGSTOP)
        async with (
            coord.connect(endpoint) as client,
            client.mutex(LOCK).hold(timeout=60) as grant,  # once the lease has ended
        ):
            await write(pool, LOCK, grant.token, "from the second holder")
        holder.send_signal(signal.SIGCONT)
        output, errors = await asyncio.to_thread(holder.communicate, "write\n", 60)
    finally:
        end(holder)
    assert errors == ""
    assert output == "refused\n"
    assert await lines(pool) == ["from the first holder", "from the second holder"]
