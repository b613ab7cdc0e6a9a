"""A whole cluster with its clients in one thread, in virtual time, decided by a seed.

The problem: what breaks a coordination system happens once in a million schedules, and cannot be looked
at again. Here time, network, disks and chance are simulated, so a schedule is a number: each seed is
another one, and the same seed is the same one, for ever.

Vocabulary: a *node* is a simulated process with an event loop of its own; a *machine* is where it lives, and
outlives it; a *plan* is the list of everything that is done to a world; *options* are what a seed decides
before that; a *step* runs a burst of one node's handles; an *invariant* must hold after every step; the
*judge* reads the history afterwards.

Invariants: nothing here reads a real clock to decide anything; a draw depends on what it is for and on
nothing that happened elsewhere; a dead node does nothing; the real server and the real client run, on the
seams of ``coord.runtime`` and the server's ``Disk``.

Left out: TLS, name resolution, unix sockets, threads. They are tested on real ones.
"""

from coord.testing.sim.machine import Problem
from coord.testing.sim.options import Options, draw_options
from coord.testing.sim.plan import Plan, draw_plan
from coord.testing.sim.run import Outcome, run

__all__ = ["Options", "Outcome", "Plan", "Problem", "draw_options", "draw_plan", "run"]
