"""Real member processes on the loopback, and a network between them that does as it is told.

The problem: a simulation controls everything that it knows of, and a real kernel, disk and scheduler do
what nobody thought of. Here the members are processes of the program that users run; they are killed,
stopped and cut off while clients work, and the histories of those clients are judged as everywhere else.

Vocabulary: a *member* is a name, a data directory and two addresses, with or without a process; a *link* is
the bytes from one member to another, whoever has dialled, and has a *rule*; a *proxy* stands in front of one
port of one member, and the member advertises the proxy's address, so whatever others send it passes there.

    async with Cluster(directory) as cluster:
        leader = await cluster.leader()
        cluster.links.partition([leader.name])
        ...
        cluster.links.heal()

Invariants: only processes that were started here are signalled, each by its id; all of them are gone when
the ``async with`` has ended; everything listens on the loopback; every wait has a deadline.

Left out: TLS between members (a proxy could not tell who dials), and faults of disks and clocks.
"""

from coord.testing.chaos.calls import call, change, status_of
from coord.testing.chaos.cluster import Cluster, Proxied
from coord.testing.chaos.links import Links, Rule
from coord.testing.chaos.member import MemberFailed, MemberProcess
from coord.testing.chaos.ports import free_ports
from coord.testing.chaos.proxy import ChaosProxy
from coord.testing.chaos.waiting import WaitedTooLong, wait_until

__all__ = [
    "ChaosProxy",
    "Cluster",
    "Links",
    "MemberFailed",
    "MemberProcess",
    "Proxied",
    "Rule",
    "WaitedTooLong",
    "call",
    "change",
    "free_ports",
    "status_of",
    "wait_until",
]
