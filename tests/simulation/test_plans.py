"""What a seed plans: faults at the leader, faults that come together, clients that differ."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest

from coord.testing.sim import Plan, draw_options, draw_plan, faults
from coord.testing.sim.plan import Fault, member_names
from coord.testing.sim.trace import Trace


def plans(count: int = 25, **changes: Any) -> list[Plan]:  # noqa: ANN401 - options of any kind
    drawn = [draw_options(seed, members=3) for seed in range(count)]
    return [draw_plan(replace(options, **changes)) for options in drawn]


class _Place:
    """What a fault asks of a world, and which machines it meets."""

    def __init__(self, leader: str | None) -> None:
        self.leader_name = leader
        self.met: list[str] = []
        self.is_healed = False
        self.scheduler = self
        self.trace = Trace()
        self.now = 0.0

    def machine(self, name: str) -> _Place:
        self.met.append(name)
        return self

    def pause(self, seconds: float) -> None:
        assert seconds == 2.0


@pytest.mark.parametrize(("leader", "met"), [("10.0.0.3", "10.0.0.3"), (None, "10.0.0.1")])
def test_a_fault_aimed_at_the_leader_strikes_whoever_leads(leader: str | None, met: str) -> None:
    place = _Place(leader)
    fault = Fault(id=0, at=1.0, kind="pause", on=("10.0.0.1",), lasts=2.0, args={"leader": True})
    faults.strike(cast("faults.Field", place), fault)
    assert place.met == [met]


def test_only_what_strikes_one_member_is_aimed_at_the_leader() -> None:
    aimed = [f for plan in plans(aim=1.0) for f in plan.faults if f.args.get("leader")]
    members = set(member_names(draw_options(0, members=3)))
    assert aimed
    assert all(len(f.on) == 1 and f.on[0] in members for f in aimed)
    # A majority keeps disks that neither fail nor fill up.
    assert not {f.kind for f in aimed} & {"eio", "full", "rot"}
    assert not any(f.args.get("leader") for plan in plans(aim=0.0) for f in plan.faults)


def test_faults_that_come_together_stay_within_the_chaos() -> None:
    for plan in plans(rushes=2):
        chaos_s = plan.options.chaos_s
        assert all(0.0 <= f.at <= round(chaos_s, 3) for f in plan.faults)
        slow = [f for f in plan.faults if f.kind == "slow_disk"]
        assert all(f.at + f.args["sync_s"] <= chaos_s + 3.01 for f in slow)


def test_clients_differ() -> None:
    scripts: dict[frozenset[str], int] = {}
    for plan in plans():
        for name in {op.client for op in plan.ops}:
            used = frozenset(op.op for op in plan.ops if op.client == name)
            scripts[used] = scripts.get(used, 0) + 1
    assert frozenset(("get", "list", "past")) in scripts
    assert any("grant" in used and "cas" not in used for used in scripts)
    assert any({"put", "cas"} <= used and "get" not in used for used in scripts)
