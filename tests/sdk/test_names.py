"""Names that would count each other's keys are refused in debug mode (recipes C1)."""

from __future__ import annotations

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
