"""Whole runs: they pass, they repeat themselves, and what was planted is found."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from coord.testing.sim import Plan, draw_options, draw_plan, run
from coord.testing.sim.chance import Chance
from coord.testing.sim.cli import main as program
from coord.testing.sim.cli import run_elsewhere
from coord.testing.sim.plan import Fault
from coord.testing.sim.shrink import Budget, minimize, shrink
from tests.simulation.mutants import MUTANTS, lying, planted

# Where to begin to look for what is rare; the zoo begins at 0.
FIRST_SEED = {
    "fsync_error_ignored": 5,
    "fsync_repeated": 5,
    "recovery_not_synced": 39,
    "applied_index_apart": 5,
}

PINNED = sorted((Path(__file__).parent / "regressions").glob("*.json"))


def test_a_cluster_over_http2() -> None:
    outcome = run(draw_plan(draw_options(7, members=3, depth="full")))
    assert outcome.problems == []


def test_members_are_replaced_while_clients_work() -> None:
    options = replace(
        draw_options(1, members=3, depth="direct"), faults=("admin",), catchup=5, watchers=2
    )
    plan = draw_plan(options)
    fault = replace(
        plan.faults[0], kind="admin", on=("10.0.0.2",), args={"action": "replace", "learner": True}
    )
    outcome = run(replace(plan, faults=(fault, replace(fault, id=1, at=fault.at + 5.0))))
    assert outcome.problems == []
    assert outcome.replaced == 2


@pytest.mark.parametrize("seed", [3, 11])
def test_one_member_over_http2(seed: int) -> None:
    outcome = run(draw_plan(draw_options(seed, members=1, depth="full")))
    assert outcome.problems == []
    assert outcome.counts["ok"] > 20


@pytest.mark.parametrize(("members", "depth"), [(1, "full"), (3, "direct")])
def test_a_seed_is_the_same_run_in_processes_that_hash_differently(
    members: int, depth: str
) -> None:
    first = run_elsewhere(11, hash_seed=1, members=members, depth=depth)
    assert len(first) == 3, first
    assert run_elsewhere(11, hash_seed=2, members=members, depth=depth) == first
    here = run(draw_plan(draw_options(11, members=members, depth=depth)))
    assert [here.trace_hash, here.events, here.verdict] == first


@pytest.mark.parametrize("path", PINNED, ids=lambda path: path.stem)
def test_pinned_plans_pass(path: Path) -> None:
    assert run(Plan.from_json(path.read_text())).problems == []


@pytest.mark.parametrize("name", sorted(MUTANTS))
def test_a_planted_bug_is_found(name: str) -> None:
    with planted(name):
        first = FIRST_SEED.get(name, 0)
        for seed in range(first, first + 60):
            if run(draw_plan(draw_options(seed, members=1, depth="direct"))).verdict:
                return
    pytest.fail(f"nobody noticed {name} in 60 seeds")


def test_disks_that_lie_are_noticed() -> None:
    assert run(draw_plan(lying(draw_options(0, members=1)))).verdict


def test_a_failing_plan_becomes_small() -> None:
    with planted("partial_delete"):
        options = replace(draw_options(1, members=1, depth="direct"), chaos_s=8.0)
        plan = draw_plan(options)
        verdict = run(plan).verdict
        small = shrink(
            plan, lambda candidate: run(candidate).verdict == verdict, budget=Budget(runs=25)
        )
        assert verdict
        assert len(small) < len(plan) / 4
        assert run(small).verdict == verdict
    assert run(small).problems == []


def test_a_link_keeps_both_its_ends_in_a_smaller_plan() -> None:
    """A plan with half a link cannot be run."""
    plan = draw_plan(draw_options(1, members=3))
    clog = Fault(id=1, at=1.0, kind="clog", on=("10.0.0.1", "10.0.0.2"), lasts=2.0, args={})
    plan = replace(plan, faults=(clog,))
    (left,) = shrink(plan, lambda candidate: len(candidate.faults) == 1).faults
    assert left.on == clog.on


def test_minimize_keeps_what_is_needed_together() -> None:
    assert minimize(range(100), lambda kept: {3, 50, 98} <= set(kept)) == [3, 50, 98]


def test_a_plan_survives_being_written_down() -> None:
    for seed in range(20):
        plan = draw_plan(draw_options(seed))
        assert Plan.from_json(plan.to_json()) == plan


def test_draws_do_not_depend_on_each_other() -> None:
    chance = Chance(1, "a", "x")
    alone = [chance.bits64() for _ in range(5)]
    other, again = Chance(1, "a", "y"), Chance(1, "a", "x")
    mixed = [(other.bits64(), again.bits64())[1] for _ in range(5)]
    assert mixed == alone
    assert len({Chance(seed, "a").bits64() for seed in range(100)}) == 100


def test_the_program_writes_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = program(["--seeds", "1-3", "--members", "1", "--report", str(tmp_path)])
    assert code == 0
    assert (tmp_path / "summary.md").read_text().startswith("# Simulation")
    assert '"runs": 2' in capsys.readouterr().out


def test_the_program_tells_of_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with planted("ack_before_fsync"):
        code = program(["--seeds", "1", "--members", "1", "--no-shrink", "--report", str(tmp_path)])
    said = capsys.readouterr().out
    assert code == 1
    assert "R7" in said
    assert "python -m coord.testing.sim --seeds 1 --members 1" in said
    names = {path.name for path in (tmp_path / "seed-1").iterdir()}
    assert names == {
        "history.jsonl.gz", "options.json", "plan.json", "repro.sh", "trace.txt.gz", "verdict.json",
    }  # fmt: skip
