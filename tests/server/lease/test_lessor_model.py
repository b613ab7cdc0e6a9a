# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false
"""The lessor against a dumb one that looks at every lease every time."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from coord_server.lease import Lessor

ids = st.integers(1, 6)
keys = st.sampled_from([b"a", b"b", b"c"])


@dataclass
class Model:
    ttl: int
    deadline: float | None = None
    keys: set[bytes] = field(default_factory=set[bytes])
    reported: bool = False


class LessorMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.lessor = Lessor(2)
        self.model: dict[int, Model] = {}
        self.unsettled: set[int] = set()
        self.primary = False
        self.now = 0.0

    @rule(seconds=st.sampled_from([0.5, 1.0, 3.0, 10.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(lease_id=ids, ttl=st.integers(-1, 12))
    def grant(self, lease_id: int, ttl: int) -> None:
        if self.lessor.exists(lease_id):
            return
        granted = self.lessor.grant(lease_id, ttl)
        assert granted == max(2, ttl)
        self.model[lease_id] = Model(granted)
        self.unsettled.add(lease_id)

    @rule(lease_id=ids)
    def revoke(self, lease_id: int) -> None:
        gone = self.model.pop(lease_id, Model(0))
        self.unsettled.discard(lease_id)
        assert self.lessor.revoke(lease_id) == sorted(gone.keys)

    @rule(lease_id=ids, key=keys, on=st.booleans())
    def move(self, lease_id: int, key: bytes, on: bool) -> None:
        (self.lessor.attach if on else self.lessor.detach)(lease_id, key)
        if lease_id in self.model:
            held = self.model[lease_id].keys
            (held.add if on else held.discard)(key)

    @rule()
    def settle(self) -> None:
        self.lessor.settle(self.now)
        for lease_id in self.unsettled:
            lease = self.model[lease_id]
            if self.primary and lease.deadline is None:
                lease.deadline = self.now + lease.ttl
        self.unsettled.clear()

    @rule(extend=st.sampled_from([0.0, 1.0]))
    def promote(self, extend: float) -> None:
        self.lessor.promote(self.now, extend)
        self.primary = True
        self.unsettled.clear()
        for lease in self.model.values():
            lease.deadline = self.now + lease.ttl + extend
            lease.reported = False

    @rule()
    def demote(self) -> None:
        self.lessor.demote()
        self.primary = False
        self.unsettled.clear()
        for lease in self.model.values():
            lease.deadline = None
            lease.reported = False

    @rule(lease_id=ids)
    def renew(self, lease_id: int) -> None:
        lease = self.model.get(lease_id)
        alive = lease is not None and self.primary and not lease.reported
        if lease is not None and lease.deadline is not None and lease.deadline <= self.now:
            alive = False
        answer = self.lessor.renew(lease_id, self.now)
        if lease is not None and alive:
            assert answer == lease.ttl
            lease.deadline = self.now + lease.ttl
        else:
            assert answer is None

    @rule(limit=st.integers(1, 3))
    def expire(self, limit: int) -> None:
        due = [
            (lease.deadline, lease_id)
            for lease_id, lease in self.model.items()
            if lease.deadline is not None
            and lease.deadline <= self.now
            and not lease.reported
            and lease_id not in self.unsettled
        ]
        got = self.lessor.expired(self.now, limit)
        assert len(got) == min(limit, len(due))
        assert set(got) <= {lease_id for _, lease_id in due}
        for lease_id in got:
            self.model[lease_id].reported = True

    @rule(lease_id=ids)
    def retry(self, lease_id: int) -> None:
        self.lessor.retry(lease_id)
        if lease_id in self.model:
            self.model[lease_id].reported = False

    @rule()
    def restart(self) -> None:
        records = [self.lessor.encode_record(lease_id) for lease_id in self.lessor.ids()]
        self.lessor.load(records)
        self.demote()
        for lease in self.model.values():
            lease.keys = set()

    @invariant()
    def agrees(self) -> None:
        lessor = self.lessor
        assert sorted(lessor.ids()) == sorted(self.model)
        assert len(lessor) == len(self.model)
        for lease_id, lease in self.model.items():
            assert lessor.keys(lease_id) == sorted(lease.keys)
            assert lessor.granted_ttl(lease_id) == lease.ttl
            left = lease.ttl if lease.deadline is None else lease.deadline - self.now
            assert lessor.remaining(lease_id, self.now) == left
            late = lease.reported or (lease.deadline is not None and lease.deadline <= self.now)
            assert lessor.is_expired(lease_id, self.now) == late


def test_the_lessor_is_the_dumb_one() -> None:
    run_state_machine_as_test(LessorMachine, settings=settings(stateful_step_count=50))
