"""Rules that a run is judged by, each with a planted bug that it notices; and clusters that change their size."""

from __future__ import annotations

from dataclasses import replace

import pytest

from coord.testing.sim import draw_options, draw_plan, run
from coord.testing.sim.options import RESIZE, STRANGER
from coord.testing.sim.plan import Fault
from tests.simulation.zoo import ANIMALS


@pytest.mark.parametrize(
    ("name", "rule", "first"),
    [
        # The zoo begins at 0; a test need not look so long for what is rare.
        ("checkpoint_ignored", "L1", 5),
        ("parts_without_bound", "B1", 2),
        ("earlier_lives_are_heard", "R11", 15),
        pytest.param("checkpoint_not_written", "L1", 25, marks=pytest.mark.later),
        pytest.param("watchers_left_behind", "B1", 0, marks=pytest.mark.later),
        pytest.param("groups_never_forgotten", "B1", 0, marks=pytest.mark.later),
        pytest.param("strangers_are_heard", "R11", 0, marks=pytest.mark.later),
    ],
)
def test_a_rule_notices_what_it_is_for(name: str, rule: str, first: int) -> None:
    animal = ANIMALS[name]
    for seed in range(first, first + 20):
        options = draw_options(seed, members=animal.members, depth="direct", also=animal.also)
        plan = draw_plan(options)
        with pytest.MonkeyPatch.context() as patch:
            animal.plant(patch)
            problems = run(plan).problems
        if rule in {problem.rule for problem in problems}:
            assert run(plan).problems == [], f"seed {seed}"
            return
    pytest.fail(f"{rule} did not notice {name} in 20 seeds")


def test_a_renewal_that_leaves_the_checkpoint_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes a checkpoint, a renewal, and within a second or two a single change of leader."""
    options = replace(
        draw_options(23, members=3, depth="direct"),
        lease_ttl_s=11,
        checkpoint_s=4.0,
        drift=0.0,
        faults=(),
        shuffled=0.0,
        tinkerers=0,
        moves_s=0.0,
        chaos_s=36.0,
        clients=5,
    )
    moves = [
        Fault(
            id=n, at=7.0 * (n + 1), kind="admin", on=(f"10.0.0.{1 + n % 3}",),
            args={"action": "move"},
        )
        for n in range(4)
    ]  # fmt: skip
    plan = replace(draw_plan(options), faults=tuple(moves))
    assert run(plan).problems == []
    ANIMALS["checkpoint_outlives_renewal"].plant(monkeypatch)
    assert run(plan).verdict == "L1"


def test_clusters_grow_and_shrink_while_clients_work() -> None:
    sizes: set[int] = set()
    for seed in (3002, 3010, 3016):
        outcome = run(draw_plan(draw_options(seed, also=(RESIZE,))))
        assert outcome.problems == [], f"seed {seed}"
        assert outcome.resized >= 4
        sizes |= {*outcome.sizes}
    assert sizes >= {1, 2, 3, 4, 5}


def test_strangers_speak_and_nobody_listens() -> None:
    outcome = run(draw_plan(draw_options(3024, members=3, depth="direct", also=(STRANGER,))))
    assert outcome.problems == []
    assert outcome.strangers > 1
