"""The doors to the outside world, and the places where code runs.

Nothing in ``coord`` or ``coord_server`` looks at a clock, opens a socket, draws a random number or starts a
thread by itself.
It asks one of the seams in an :class:`Env`: *Clock*, *Net*, *Rand* and *Offload* (the server adds *Disk*).
The real ones live here, in ``real.py``; a simulator hands in its own and thereby owns time, network and chance, so
that a run can be repeated from its seed.

The room also holds what every asyncio program needs once: :func:`finish` runs a clean-up to its end although its
caller is cancelled, :class:`Supervisor` owns background tasks, :class:`Runtime` says on which loop a client lives
(its own thread, or the caller's loop) and hands calls over in batches.

Left out on purpose: timers. ``asyncio.sleep``, ``loop.call_later`` and ``asyncio.timeout`` are used directly, since
the simulator replaces the loop itself.
"""

from coord.runtime.backoff import Backoff
from coord.runtime.crossing import Batcher
from coord.runtime.files import AtomicFile
from coord.runtime.invariants import InvariantViolation, invariant
from coord.runtime.loops import new_loop
from coord.runtime.placement import ForkedRuntime, LoopThread, Runtime, RuntimeStopped
from coord.runtime.real import (
    FileStamp,
    RealClock,
    RealNet,
    RealOffload,
    RealRand,
    end_process,
    file_stamps,
    process_identity,
    read_bytes,
    real_env,
)
from coord.runtime.seams import (
    Address,
    Clock,
    Env,
    Listener,
    Net,
    Offload,
    Rand,
    TcpAddress,
    UnixAddress,
)
from coord.runtime.tasks import Supervisor, finish, start_task

__all__ = [
    "Address",
    "AtomicFile",
    "Backoff",
    "Batcher",
    "Clock",
    "Env",
    "FileStamp",
    "ForkedRuntime",
    "InvariantViolation",
    "Listener",
    "LoopThread",
    "Net",
    "Offload",
    "Rand",
    "RealClock",
    "RealNet",
    "RealOffload",
    "RealRand",
    "Runtime",
    "RuntimeStopped",
    "Supervisor",
    "TcpAddress",
    "UnixAddress",
    "end_process",
    "file_stamps",
    "finish",
    "invariant",
    "new_loop",
    "process_identity",
    "read_bytes",
    "real_env",
    "start_task",
]
