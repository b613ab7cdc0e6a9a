"""Failpoints of the server under a seed: who comes by one may die there, or take long.

The places are those of ``coord_server.failpoints``. They belong to the process, so one world at a time has
them; :meth:`Buggify.close` gives them back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from coord.testing.sim.chance import Chance
from coord.testing.sim.nodeloop import NodeDead
from coord.testing.sim.server_node import ServerNode
from coord_server import failpoints
from coord_server.storage.memory_disk import CrashMode

if TYPE_CHECKING:
    from collections.abc import Callable

    from coord.testing.sim.world import World

# More deaths than this per run would leave no time for anything else.
_MOST_DEATHS: Final = 10


class Buggify:
    """Every failpoint of a run: which were visited, and what happens there while :attr:`is_on`."""

    def __init__(self, world: World) -> None:
        self.hits: set[str] = set()
        self.is_on = False
        self._world = world
        self._deaths = 0
        options = world.options
        for name in failpoints.names():
            # Where something happens everywhere, what is visited often leaves nothing for the rest.
            is_active = Chance(options.seed, "focus", name).below(options.focus)
            failpoints.arm(name, self._action(name, options.buggify if is_active else 0.0))

    def close(self) -> None:
        """Disarm every failpoint."""
        failpoints.disarm()

    def _action(self, name: str, probability: float) -> Callable[[], None]:
        world = self._world
        chances: dict[str, Chance] = {}

        def act() -> None:
            self.hits.add(name)
            running = world.scheduler.running
            if not self.is_on or not probability or running is None:
                return
            running.check_alive()
            chance = chances.get(running.name)
            if chance is None:
                chance = chances[running.name] = Chance(
                    world.options.seed, "buggify", f"{running.name}/{name}"
                )
            if chance.below(probability):
                self._strike(running.name, name, chance)

        return act

    def _strike(self, host: str, name: str, chance: Chance) -> None:
        node = self._world.machine(host)
        scheduler = self._world.scheduler
        if not isinstance(node, ServerNode):
            return
        scheduler.trace.note(scheduler.now, host, f"failpoint {name}")
        if not chance.below(self._world.options.deaths) or self._deaths >= _MOST_DEATHS:
            scheduler.charge(chance.log_uniform(0.0001, 0.5))
            return
        self._deaths += 1
        mode = CrashMode(self._world.options.crash_mode)
        node.crash(down_s=chance.log_uniform(0.05, 3.0), power=chance.below(0.7), mode=mode)
        raise NodeDead(host)
