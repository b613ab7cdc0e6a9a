"""A simulated cluster with its clients, put together from options and a plan."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from coord.testing.sim.admin import Admin
from coord.testing.sim.bound_rules import Bounds
from coord.testing.sim.chance import Chance
from coord.testing.sim.client_node import ClientNode
from coord.testing.sim.disk import DiskOptions
from coord.testing.sim.durability import Durable
from coord.testing.sim.invariants import Observer
from coord.testing.sim.journal import Journal
from coord.testing.sim.lease_rules import LeaseRest, LeaseTerm
from coord.testing.sim.links import LinkOptions
from coord.testing.sim.log_rules import OneLeader, OneLog, ReadNumbers, WholeLeader
from coord.testing.sim.machine import Machine, Stage
from coord.testing.sim.mail import Mail
from coord.testing.sim.mover import Mover
from coord.testing.sim.net import SimNet
from coord.testing.sim.plan import client_names, founder_names, member_names
from coord.testing.sim.scheduler import Limits, Scheduler
from coord.testing.sim.sender_rules import Senders
from coord.testing.sim.server_node import CLIENT_PORT, PEER_PORT, MemberOptions, ServerNode
from coord.testing.sim.state_rules import Attached, Revisions, SameState
from coord.testing.sim.stranger import Stranger
from coord.testing.sim.tinkerer import Tinkerer
from coord.testing.sim.watcher import Watcher
from coord_server.config import Config
from coord_server.flag_values import Url

if TYPE_CHECKING:
    from collections.abc import Callable

    from coord.testing.sim.invariants import Rule
    from coord.testing.sim.options import Options
    from coord.testing.sim.plan import Plan
    from coord.testing.sim.trace import Trace

_SOON_S: Final = 0.5


class World:
    """All machines of one run. Nothing runs before :meth:`run`-like calls on ``scheduler``."""

    def __init__(
        self, plan: Plan, *, limits: Limits | None = None, trace: Trace | None = None
    ) -> None:
        options = plan.options
        self.options: Options = options
        self.plan = plan
        seed = options.seed
        self.scheduler: Scheduler = Scheduler(seed, limits=limits, trace=trace)
        self.calm: LinkOptions = LinkOptions()
        self.net: SimNet = SimNet(self.scheduler, seed, options=self.calm)
        self.stage: Stage = Stage(self.scheduler, self.net, seed)
        self.journal: Journal = Journal(self.scheduler)
        senders = Senders(self.stage.report)
        self.mail: Mail = Mail(seed, options.shuffled, options.parts, senders)
        self.observer: Observer = Observer(self.stage, self.mail)
        self.observer.rules += [*self._rules(), senders]
        self.member_names: tuple[str, ...] = member_names(options)
        self.client_names: tuple[str, ...] = client_names(options)
        self._founders = founder_names(options)
        self.servers: list[ServerNode] = [self._member(name) for name in self.member_names]
        self.clients: list[ClientNode] = [self._client(name) for name in self.client_names]
        self.watchers: list[Watcher] = [
            Watcher(
                self.stage,
                f"10.0.4.{number + 1}",
                self.member_names,
                self.journal,
                depth=options.depth,
                able=self.able_names,
            )
            for number in range(options.watchers)
        ]
        self.admin: Admin = Admin(
            self.stage,
            self.servers,
            self.observer,
            self.journal,
            depth=options.depth,
            cut=self._cut,
        )
        self.stranger: Stranger = Stranger(self.stage, self.observer)
        self.tinkerers: list[Tinkerer] = [
            Tinkerer(
                self.stage,
                f"10.0.6.{number + 1}",
                self.member_names,
                self.journal,
                depth=options.depth,
                able=self.able_names,
            )
            for number in range(options.tinkerers)
        ]
        self.mover: Mover = Mover(
            self.stage,
            self.member_names,
            self.observer,
            self.journal,
            depth=options.depth,
            every_s=options.moves_s,
            hangs="disk" in options.faults,
        )
        self._machines = {machine.name: machine for machine in (*self.servers, *self.programs())}
        self.is_healed: bool = False
        self._undo: dict[int, Callable[[], None]] = {}
        self._next_undo = 0
        self.scheduler.on_step = self.observer.step
        self.scheduler.trace.describe = self._describe

    def _rules(self) -> list[Rule]:
        report, journal = self.stage.report, self.journal
        leases = LeaseTerm(report, self.scheduler.moment, journal.promised)
        rest = LeaseRest(report, self.scheduler.moment)
        journal.on_renewed = (leases.renewed, rest.renewed)
        journal.on_gone = leases.gone
        return [
            OneLeader(report),
            OneLog(report),
            WholeLeader(report),
            ReadNumbers(report),
            Durable(report),
            SameState(report),
            Revisions(report, lambda: journal.acked_revision),
            Attached(report),
            leases,
            rest,
            Bounds(report),
        ]

    def _rate(self, name: str) -> float:
        drift = self.options.drift
        return 1.0 + Chance(self.options.seed, "rate", name).uniform(-drift, drift)

    def _member(self, name: str) -> ServerNode:
        options = self.options
        node = ServerNode(
            self.stage,
            name,
            self._config(name),
            self.observer,
            options=MemberOptions(
                segment_bytes=options.segment_bytes, wake_s=options.wake_ms / 1000
            ),
            disk=DiskOptions(sync_mean_s=options.sync_mean_ms / 1000, lies=options.lying_disks),
            rate=self._rate(name),
        )
        node.is_retired = name not in self._founders
        return node

    def _config(self, name: str) -> Config:
        options = self.options
        peer = Url(scheme="http", host=name, port=PEER_PORT)
        cluster = ",".join(f"{host}=http://{host}:{PEER_PORT}" for host in self._founders)
        return Config(
            name=name,
            data_dir="/data",
            listen_client_urls=(Url(scheme="http", host=name, port=CLIENT_PORT),),
            listen_peer_urls=(peer,),
            initial_advertise_peer_urls=(peer,),
            initial_cluster=cluster,
            backend_batch_limit=options.flush_ops,
            compaction_batch_limit=options.compaction_batch,
            snapshot_catchup_entries=options.catchup,
            pre_vote=options.pre_vote,
            max_committed_bytes=options.committed_bytes,
            max_append_bytes=options.append_bytes,
            lease_checkpoint=options.checkpoint_s > 0,
            lease_checkpoint_interval_s=options.checkpoint_s,
            origins={"name": "simulation", "listen-peer-urls": "simulation"},
        )

    def _client(self, name: str) -> ClientNode:
        options = self.options
        return ClientNode(
            self.stage,
            name,
            self.member_names,
            [op for op in self.plan.ops if op.client == name],
            self.journal,
            depth=options.depth,
            lease_ttl_s=options.lease_ttl_s,
            rate=self._rate(name),
        )

    def _describe(self, name: str) -> str:
        machine = self._machines.get(name)
        return machine.describe() if isinstance(machine, ServerNode) else ""

    def programs(self) -> list[Machine]:
        """Return all machines but the members."""
        tools = (*self.tinkerers, self.mover, self.admin, self.stranger)
        return [*self.clients, *self.watchers, *tools]

    # What faults ask.

    def machine(self, name: str) -> Machine:
        """Return a machine by its name."""
        return self._machines[name]

    @property
    def leader_name(self) -> str | None:
        """The host of the member that leads, if any does."""
        leader = self.observer.leader()
        return None if leader is None else leader.name

    def until_healed(self, seconds: float, undo: Callable[[], None]) -> None:
        """Call ``undo`` after ``seconds``, or at :meth:`heal`, whichever is first; once."""
        self._next_undo += 1
        number = self._next_undo
        self._undo[number] = undo
        self.scheduler.after(seconds, self._take_back, number)

    def _cut(self, one: str, other: str, seconds: float, *, one_way: bool) -> None:
        """Let nothing through from one host to another for a while, and back, unless all faults are over.

        What stalls in a cut of one way is lost: its connections are given up in the end.
        """
        if self.is_healed:
            return
        both = [(one, other), (other, one)]
        pairs = both[:1] if one_way else both

        def undo() -> None:
            if one_way:
                self.net.sever(both)
            self.net.unblock(pairs)

        self.net.block(pairs)
        self.until_healed(seconds, undo)

    def _take_back(self, number: int) -> None:
        undo = self._undo.pop(number, None)
        if undo is not None:
            undo()

    # Phases.

    def trouble(self) -> None:
        """Let links and the post be as bad as the options say."""
        options = self.options
        self.mail.is_on = True
        self.net.shape(
            replace(
                self.calm,
                delay_mean_s=options.delay_mean_ms / 1000,
                loss=options.loss,
                duplication=options.duplication,
            )
        )

    def heal(self) -> None:
        """End all faults, and start every member that is not gone for good."""
        self.is_healed = True
        for number in list(self._undo):
            self._take_back(number)
        self.net.shape(self.calm)
        self.mail.is_on = False
        self.mover.is_on = False
        for tinkerer in self.tinkerers:
            tinkerer.is_on = False
        for machine in self._machines.values():
            machine.slow(1.0)
            if machine.loop is not None:
                machine.loop.stopped_until = 0.0
        for server in self.servers:
            server.disk.calm()
            server.start()

    def is_held_up(self) -> bool:
        """Tell whether a member is still busy for long with a single thing."""
        soon = self.scheduler.now + _SOON_S
        return any(server.busy_until() > soon for server in self.servers)

    def live_servers(self) -> list[ServerNode]:
        """Return the members that can be expected to serve."""
        gone = (s.is_refusing or s.stays_dead or s.is_retired for s in self.servers)
        return [s for s, is_gone in zip(self.servers, gone, strict=True) if not is_gone]

    def able_names(self) -> list[str]:
        """Return the hosts of the members that are not gone."""
        return [server.name for server in self.servers if not server.is_retired]

    def close(self) -> None:
        """End the world."""
        self.scheduler.close()
