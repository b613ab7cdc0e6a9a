"""Small-scope search and random walks find nothing, and they do find what is planted.

``COORD_SEARCH_STATES`` sets how many states are searched in all, ``COORD_WALKS`` how many walks are
walked; a failure prints the path or the seed.
"""

from __future__ import annotations

import os

import pytest

from tests.server.raft.copying import check_parts, copied, key_of
from tests.server.raft.mutants import MUTANTS, Mutant
from tests.server.raft.search import ROOTS, Found, Root, search
from tests.server.raft.walk import Walk, walk

STATES = int(os.environ.get("COORD_SEARCH_STATES", "50000"))
WALKS = int(os.environ.get("COORD_WALKS", "150"))
WALK_STEPS = 2000
# How far a planted mistake is looked for: states of its root, then walks.
MUTANT_STATES = 3000
MUTANT_WALKS = 60
MUTANT_STEPS = 500


@pytest.mark.parametrize("root", ROOTS, ids=lambda root: root.name.replace(" ", "_"))
def test_no_state_in_a_small_scope_breaks_an_invariant(root: Root) -> None:
    share = STATES // len(ROOTS)
    assert search(root, share) >= share


def test_walks_break_no_invariant_and_end_well() -> None:
    total: dict[str, int] = {}
    committed = leaderships = 0
    for seed in range(WALKS):
        try:
            result = walk(seed, WALK_STEPS)
        except Exception as error:
            raise AssertionError(f"walk({seed}, {WALK_STEPS})") from error
        committed += len(result.world.truth)
        leaderships += len(result.world.leaders)
        for name, count in result.counts.items():
            total[name] = total.get(name, 0) + count
    # They do go somewhere.
    assert committed > 20 * WALKS
    assert leaderships > 2 * WALKS
    rare = {"crash", "snapshot", "change", "joint", "transfer", "doubled", "stepped down", "part"}
    assert rare <= total.keys()


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name.replace(" ", "_"))
def test_planted_mistakes_are_found(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant.plant(monkeypatch)
    assert where_found(mutant) is not None


def where_found(mutant: Mutant) -> str | None:
    """Return how a planted mistake was found, None if it was not."""
    root = next(root for root in ROOTS if root.name == mutant.root)
    try:
        search(root, MUTANT_STATES)
    except Found as found:
        return str(found)
    for seed in range(MUTANT_WALKS):
        result = Walk(seed)
        try:
            result.run(MUTANT_STEPS)
        except Exception as error:  # noqa: BLE001 - whatever breaks, it is found
            return f"walk({seed}, {MUTANT_STEPS}): {error}"
    return None


def test_copies_go_their_own_way() -> None:
    world = walk(3, 1000).world
    for node in world.nodes.values():
        check_parts(node.core)
        copy = copied(node.core)
        assert key_of(copy) == key_of(node.core)
        assert copy._member.log is not node.core._member.log
