"""A run of a plan, from the first member's start to the verdict.

warm-up: until a leader serves. chaos: the plan's faults. heal: all faults off, everybody up. liveness: each
member serves a write and a linearizable read in time, members agree, leases of the dead are gone. judge.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from coord.rpc.status import RpcError
from coord.testing.sim import faults
from coord.testing.sim.bound_rules import leftovers
from coord.testing.sim.buggify import Buggify
from coord.testing.sim.client_node import ClientNode
from coord.testing.sim.judge import Evidence, judge
from coord.testing.sim.machine import Problem
from coord.testing.sim.scheduler import LimitExceeded, Limits
from coord.testing.sim.state_rules import digest_of
from coord.testing.sim.world import World
from coord.wire import methods as rpcs
from coord.wire import rpc_pb2

if TYPE_CHECKING:
    from coord.testing.history import Record
    from coord.testing.sim.plan import Plan
    from coord.testing.sim.server_node import ServerNode
    from coord.testing.sim.trace import Trace

_WARM_UP_S: Final = 30.0
_ELECTIONS_S: Final = 10.0
"""Ten election timeouts: how long the cluster may take to serve once all faults are off."""
_SCRIPTS_END_S: Final = 300.0
# A request may wait as long as this (etcd ops: "Request timeout"), and a connection that is lost is
# noticed in less.
_QUIET_S: Final = 20.0
_CHECK_EVERY_S: Final = 5.0
# A run that got less done has shown nothing.
_LEAST_OK: Final = 0.2


@dataclass(kw_only=True)
class Outcome:
    """What became of a run."""

    plan: Plan
    problems: list[Problem] = field(default_factory=list[Problem])
    trace_hash: int = 0
    events: int = 0
    steps: int = 0
    virtual_s: float = 0.0
    cpu_s: float = 0.0
    counts: dict[str, int] = field(default_factory=dict[str, int])
    acked_writes: int = 0
    crashes: int = 0
    faults: Counter[str] = field(default_factory=Counter[str])
    leader_changes: int = 0
    replaced: int = 0
    """Members that were removed and came back as new ones."""
    strangers: int = 0
    """How often somebody pretended to be a member."""
    resized: int = 0
    """How often a member was added or removed for the sake of the size."""
    sizes: tuple[int, ...] = ()
    """The sizes that the cluster had, ascending."""
    evaluated: int = 0
    failpoints: set[str] = field(default_factory=set[str])
    """The failpoints that the run came by."""
    records: list[Record] = field(default_factory=list["Record"])

    @property
    def verdict(self) -> str:
        """The class of the failure: the rule of the first problem; empty if there is none."""
        return self.problems[0].rule if self.problems else ""


def run(plan: Plan, *, limits: Limits | None = None, trace: Trace | None = None) -> Outcome:
    """Run a plan and return what became of it. Same plan, same outcome."""
    began = time.process_time()
    collecting = gc.isenabled()
    # Collection would run finalizers at moments that no seed decides.
    gc.disable()
    world = World(plan, limits=limits, trace=trace)
    buggify = Buggify(world)
    outcome = Outcome(plan=plan)
    try:
        try:
            _Phases(world, outcome, buggify).go()
        except LimitExceeded as exceeded:
            world.stage.report(exceeded.kind, "", str(exceeded))
        _fill(outcome, world)
        outcome.failpoints = buggify.hits
    finally:
        buggify.close()
        world.close()
        if collecting:
            gc.enable()
    outcome.cpu_s = time.process_time() - began
    return outcome


def _fill(outcome: Outcome, world: World) -> None:
    scheduler, journal = world.scheduler, world.journal
    outcome.problems = world.stage.problems
    outcome.trace_hash = scheduler.trace.value
    outcome.events = scheduler.trace.events
    outcome.steps = scheduler.steps
    outcome.virtual_s = scheduler.now
    outcome.counts = {str(status): count for status, count in journal.counts.items()}
    outcome.acked_writes = sum(
        getattr(record, "changed", False) for record in journal.recorder.records
    )
    outcome.crashes = sum(server.crashes for server in world.servers)
    outcome.replaced = world.admin.replaced
    outcome.strangers = world.stranger.calls
    outcome.resized = world.admin.resized
    outcome.sizes = tuple(sorted(world.admin.sizes))
    outcome.leader_changes = world.observer.leader_changes
    outcome.evaluated = world.observer.evaluated
    outcome.records = journal.recorder.records


class _Phases:
    def __init__(self, world: World, outcome: Outcome, buggify: Buggify) -> None:
        self._world = world
        self._buggify = buggify
        self._outcome = outcome

    def go(self) -> None:
        world = self._world
        if not self._warm_up():
            return
        self._chaos()
        self._buggify.is_on = False
        world.scheduler.trace.say(world.scheduler.now, "", "HEAL")
        world.heal()
        self._finish_scripts()
        self._liveness()
        self._quiet()
        self._judge()

    def _report(self, rule: str, text: str, node: str = "") -> None:
        self._world.stage.report(rule, node, text)

    def _warm_up(self) -> bool:
        world = self._world
        for server in world.servers:
            server.start()
        if not self._until(_WARM_UP_S, lambda: all(s.is_serving for s in world.live_servers())):
            self._report("warm-up", "no member serves")
            return False
        for client in (*world.clients, *world.watchers, *world.tinkerers, world.mover):
            client.start()
        return True

    def _until(self, seconds: float, condition: Any) -> bool:  # noqa: ANN401 - a function without arguments
        """Run until ``condition()``, at most so long; look at it ten times a second."""
        scheduler = self._world.scheduler
        deadline = scheduler.now + seconds
        while not condition():
            if scheduler.now >= deadline:
                return False
            scheduler.run(min(deadline, scheduler.now + 0.1))
        return True

    def _chaos(self) -> None:
        world = self._world
        scheduler = world.scheduler
        begin = scheduler.now
        world.trouble()
        self._buggify.is_on = True
        for fault in world.plan.faults:
            scheduler.at(begin + fault.at, faults.strike, world, fault)
            self._outcome.faults[fault.kind] += 1
        end = begin + world.options.chaos_s
        while scheduler.now < end:
            scheduler.run(min(end, scheduler.now + _CHECK_EVERY_S))
            world.observer.checkpoint()

    def _finish_scripts(self) -> None:
        world = self._world
        if not self._until(_SCRIPTS_END_S, lambda: all(c.is_done for c in world.clients)):
            self._report("liveness", "a client never finished its script")
        if not self._until(_SCRIPTS_END_S, lambda: world.admin.is_done):
            self._report("liveness", "the operator never finished what was ordered")

    def _liveness(self) -> None:
        world = self._world
        # What a slow disk or processor began before the end of all faults takes its time.
        self._until(_SCRIPTS_END_S, lambda: not world.is_held_up())
        probes = [_Probe(world, server) for server in world.live_servers()]
        for probe in probes:
            probe.start()
        if not self._until(_ELECTIONS_S, lambda: all(probe.is_served for probe in probes)):
            for probe in probes:
                if not probe.is_served:
                    self._report(
                        "liveness", f"serves no write and read: {probe.last_error}", probe.target
                    )
        longest = world.options.lease_ttl_s * 1.2 + 2.0 + 3 * 1.0
        if not self._until(2 * longest, self._leases_are_gone):
            self._report("liveness", "leases that nobody renews are still there")
        watchers = world.watchers
        # At one and the same moment: what an operator writes beside a removal may be answered after
        # everything else is done, and then all have to hear of it once more.
        self._until(2 * _ELECTIONS_S, lambda: self._agree() and not self._late_watchers())
        late = self._late_watchers()
        if late:
            self._report("liveness", f"watchers have reached {late}, and the store is further")
        for watcher in watchers:
            watcher.finish()
        world.observer.checkpoint()
        if not self._agree():
            states = {m.name: digest_of(m) for m in world.observer.members}
            self._report("S1", f"members do not agree in the end: {states}")

    def _late_watchers(self) -> dict[str, int]:
        """Return how far those watchers have come that have not been told everything."""
        world = self._world
        newest = max((member.store.revision for member in world.observer.members), default=0)
        return {w.name: w.reached for w in world.watchers if w.reached < newest}

    def _quiet(self) -> None:
        """Let all programs end: nothing of what they asked for may be left anywhere."""
        world = self._world
        for machine in world.programs():
            machine.die(power=False)
        servers = world.live_servers()
        self._until(1.0, lambda: False)
        for server in servers:
            for end in world.net.connections(server.name):
                # What a middlebox has forgotten, keepalive would find dead after hours.
                if end.get_extra_info("peername")[0] not in world.member_names:
                    world.net.reset(end)
        if not self._until(_QUIET_S, lambda: not any(leftovers(server) for server in servers)):
            for server in servers:
                left = leftovers(server)
                if left:
                    self._report(
                        "B1", f"still has {left}, and nobody asks for anything", server.name
                    )

    def _leases_are_gone(self) -> bool:
        return not any(len(member.lessor) for member in self._world.observer.members)

    def _agree(self) -> bool:
        return len({digest_of(member) for member in self._world.observer.members}) <= 1

    def _judge(self) -> None:
        world = self._world
        journal = world.journal
        evidence = Evidence(
            records=journal.recorder.records, answers=journal.answers, log=world.observer.log
        )
        for finding in judge(evidence):
            self._report(finding.rule, finding.text)
        total = sum(journal.counts.values())
        if journal.counts["ok"] < _LEAST_OK * total:
            self._report(
                "floor", f"only {journal.counts['ok']} of {total} operations were answered"
            )


class _Probe:
    """A program that writes to and reads from one member until it has been served once."""

    def __init__(self, world: World, server: ServerNode) -> None:
        self.target = server.name
        self.is_served = False
        self.last_error = "no answer"
        name = f"10.0.2.{server.name.rpartition('.')[2]}"
        self._client = ClientNode(
            world.stage,
            name,
            [server.name],
            (),
            world.journal,
            depth=world.options.depth,
            lease_ttl_s=1,
        )

    def start(self) -> None:
        """Begin."""
        self._client.boot(self._run)

    async def _run(self) -> None:
        carrier = self._client.carrier()
        put = rpc_pb2.PutRequest(key=b"probe", value=self.target.encode())
        get = rpc_pb2.RangeRequest(key=b"probe")
        while not self.is_served:
            try:
                await carrier.unary(rpcs.KV_PUT.path, put.SerializeToString(), timeout=2.0)
                await carrier.unary(rpcs.KV_RANGE.path, get.SerializeToString(), timeout=2.0)
                self.is_served = True
            except RpcError as error:
                self.last_error = str(error)
                await asyncio.sleep(0.1)
        await carrier.close()
