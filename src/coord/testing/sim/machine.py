"""A simulated machine: a name on the network, clocks, and at most one process with its loop.

Each start of the process is an epoch with a loop of its own. Everything that the process was handed
belongs to that loop, so that what is left of an earlier epoch meets NodeDead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from coord.runtime import start_task
from coord.testing.sim.chance import Chance
from coord.testing.sim.env import NodeClock, NodeRand
from coord.testing.sim.nodeloop import NodeLoop

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from coord.testing.sim.net import HostNet, SimNet
    from coord.testing.sim.scheduler import Scheduler

_BOOT_OFFSET_S = 1000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something that must not happen: which rule, where, when, and what it looked like."""

    rule: str
    node: str
    at: float
    text: str


class Stage:
    """What all machines of a world share. ``report`` takes problems."""

    def __init__(self, scheduler: Scheduler, net: SimNet, seed: int) -> None:
        self.scheduler = scheduler
        self.net = net
        self.seed = seed
        self.problems: list[Problem] = []

    def report(self, rule: str, node: str, text: str) -> None:
        """Note a problem; the first ones count."""
        if len(self.problems) < 100:  # noqa: PLR2004 - a broken run repeats itself
            moment = self.scheduler.moment()
            self.problems.append(Problem(rule=rule, node=node, at=moment, text=text))
            self.scheduler.trace.say(moment, node, f"PROBLEM {rule}: {text}")


class Machine:
    """One host. ``rate`` is how fast its clock runs."""

    def __init__(self, stage: Stage, name: str, *, rate: float = 1.0) -> None:
        self.stage = stage
        self.name = name
        self.rate = rate
        self.wall_offset: float = 0.0
        self.epoch: int = 0
        self.loop: NodeLoop | None = None
        self.net: HostNet | None = None
        self.clock: NodeClock | None = None
        self.slowness: float = 1.0
        # Monotonic clocks begin anywhere, and again after a power failure.
        self._offset = Chance(stage.seed, "boot", name).uniform(0.0, _BOOT_OFFSET_S)

    @property
    def is_up(self) -> bool:
        """Whether a process runs."""
        return self.loop is not None

    def boot(self, program: Callable[[], Coroutine[Any, Any, None]]) -> NodeLoop:
        """Start a process that runs ``program``."""
        stage = self.stage
        self.epoch += 1
        loop = self.loop = NodeLoop(
            self.name, offset=self._offset, rate=self.rate, on_problem=self._on_problem
        )
        loop.slowness = self.slowness
        self.net = stage.net.attach(self.name, loop)
        self.clock = NodeClock(loop, self.wall_offset)
        stage.scheduler.add(loop)
        stage.scheduler.trace.note(stage.scheduler.now, self.name, "boot", self.epoch)
        loop.call_soon(lambda: start_task(program(), name=f"{self.name} main"))
        return loop

    def rand(self) -> NodeRand:
        """Return the process's chance."""
        if self.loop is None:
            raise RuntimeError(f"{self.name} is down")
        return NodeRand(self.loop, self.stage.seed, self.epoch)

    def die(self, *, power: bool) -> None:
        """End the process in the middle of what it does; with ``power``, the machine with it."""
        loop, self.loop = self.loop, None
        if loop is None:
            return
        stage = self.stage
        stage.scheduler.trace.note(stage.scheduler.now, self.name, "die", int(power))
        stage.scheduler.remove(loop)
        if power:
            stage.net.power_lost(self.name)
            self._offset = Chance(stage.seed, "boot", f"{self.name}/{self.epoch}").uniform(
                0.0, _BOOT_OFFSET_S
            )
        else:
            stage.net.process_died(self.name)

    def pause(self, seconds: float) -> None:
        """Stop the process for a while; its clock and its kernel go on."""
        if self.loop is not None:
            until = self.stage.scheduler.now + seconds
            self.loop.stopped_until = max(self.loop.stopped_until, until)

    def slow(self, factor: float) -> None:
        """Let everything take ``factor`` times as long from now on."""
        self.slowness = factor
        if self.loop is not None:
            self.loop.slowness = factor

    def jump_wall(self, seconds: float) -> None:
        """Move the wall clock."""
        self.wall_offset += seconds
        if self.clock is not None:
            self.clock.wall_offset = self.wall_offset

    def _on_problem(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        detail = "" if error is None else f": {type(error).__name__}: {error}"
        self.stage.report("T1", self.name, f"{context.get('message', 'unhandled')}{detail}")
