"""Names that would count each other's keys are refused in debug mode (recipes C1)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import coord


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("jobs", "jobs/nightly"),
        ("jobs/nightly", "jobs"),
        ("a/b", "a/b/c/d"),
        ("a", "a/"),
        ("é", "é/x"),
    ],
)
async def test_a_name_above_or_below_another_is_refused(first: str, second: str) -> None:
    async with coord.connect("memory:", debug=True) as client:
        client.mutex(first)
        with pytest.raises(coord.NameConflict, match=f"{second!r} conflicts with {first!r}"):
            client.election(second)


RECIPES: dict[str, Callable[[coord.Client, str], object]] = {
    "mutex": lambda client, name: client.mutex(name),
    "multi_lock": lambda client, name: client.multi_lock([name]),
    "rwlock": lambda client, name: client.rwlock(name),
    "semaphore": lambda client, name: client.semaphore(name, initial_limit=1),
    "election": lambda client, name: client.election(name),
    "barrier": lambda client, name: client.barrier(name),
    "double_barrier": lambda client, name: client.double_barrier(name, 2),
    "latch": lambda client, name: client.latch(name, 1),
    "registry": lambda client, name: client.registry(name),
    "membership": lambda client, name: client.membership(name),
    "queue": lambda client, name: client.queue(name),
    "priority_queue": lambda client, name: client.priority_queue(name),
    "delay_queue": lambda client, name: client.delay_queue(name),
    "work_queue": lambda client, name: client.work_queue(name),
    "counter": lambda client, name: client.counter(name),
    "sharded_counter": lambda client, name: client.sharded_counter(name, shards=2),
    "id_allocator": lambda client, name: client.id_allocator(name),
    "atomic": lambda client, name: client.atomic(name),
    "topic": lambda client, name: client.topic(name),
    "rate_limiter": lambda client, name: client.rate_limiter(name, 1),
}


@pytest.mark.parametrize("recipe", RECIPES)
async def test_every_recipe_claims_its_name(recipe: str) -> None:
    async with coord.connect("memory:", debug=True) as client:
        client.mutex("taken")
        RECIPES[recipe](client, "taken")
        with pytest.raises(coord.NameConflict, match="'taken/x' conflicts with 'taken'"):
            RECIPES[recipe](client, "taken/x")
        RECIPES[recipe](client, "free/x")
        with pytest.raises(coord.NameConflict, match="'free' conflicts with 'free/x'"):
            client.mutex("free")


async def test_a_config_claims_its_name() -> None:
    async with coord.connect("memory:", debug=True) as client:
        client.mutex("taken")
        with pytest.raises(coord.NameConflict):
            await client.config("taken/x", str, default="")


async def test_other_names_and_the_same_one_are_not() -> None:
    """No :class:`NameConflict`, which the test above gets, is the claim."""
    async with coord.connect("memory:", debug=True) as client:
        for name in ("jobs", "jobs", "jobs-b", "jobsb/x", b"jo", "other/jobs"):
            client.mutex(name)
            client.election(name)


async def test_without_debug_nothing_is_looked_at() -> None:
    """No :class:`NameConflict`, which debug mode raises for these two, is the claim."""
    async with coord.connect("memory:") as client:
        client.mutex("jobs")
        client.mutex("jobs/nightly")
