"""Real servers on the loopback, for the tests of programs: one, a cluster, and a network that misbehaves.

The problem: what a program does when its server is killed, stops, or is cut off is found out by killing, stopping and
cutting off a server.

Vocabulary: a *stage* is a thread that runs processes and proxies, so that a test may block or run a loop of its own;
everything that is started has two faces: a blocking one, and at ``.aio`` one to await, from any loop.

    with server() as one, proxy(one.endpoint) as line, coord.sync.connect(line.endpoint) as client:
        client.put("k", "v")
        line.blackhole()
        ...
        line.heal()
        one.restart()

Invariants: everything listens on the loopback at ports that it keeps; the processes are those of the program that
users run, and are gone when the block has ended, or soon after this process however it ends.

All of it stands on :mod:`coord.testing.chaos`, where there is more of it.
"""

from coord.testing.local.cluster import AsyncCluster, Cluster, cluster
from coord.testing.local.proxy import Proxy, proxy
from coord.testing.local.server import AsyncServer, Server, server

__all__ = [
    "AsyncCluster",
    "AsyncServer",
    "Cluster",
    "Proxy",
    "Server",
    "cluster",
    "proxy",
    "server",
]
