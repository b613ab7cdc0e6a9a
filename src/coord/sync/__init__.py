"""The same without ``await``: a blocking twin for every class and function of ``coord``.

    with coord.sync.connect() as client, client.mutex("jobs/nightly").hold(timeout=5) as grant:
        db.execute("UPDATE report SET body=%s, fence=%s WHERE fence < %s", body, grant.token, grant.token)

There is no second implementation.
A twin holds its asynchronous counterpart and hands each call to the client's thread, where renewals, watches and
clean-ups live in any case; the calling thread waits.
Names, parameters, values and errors are the same; errors and values come from :mod:`coord` itself.

What differs, because threads differ from tasks:

* Nothing can interrupt a thread that runs your code, so ``hold()`` and ``lead()`` do not cancel their body when the
  grant is lost: look at ``grant.lost``. The lost error is raised at the end of the block.
* Ctrl-C cancels the call, waits until it has cleaned up behind itself, and is raised then: an ``acquire`` leaves no
  key. A second Ctrl-C does not wait.
* Iterators are plain iterators with ``close()``, and :meth:`Watch.read` takes a ``timeout``.
* A reentrant mutex belongs to the thread instead of the task.
* :meth:`AmbiguousResult.resolve` blocks.
"""

from coord.sync._endpoints import Cluster, Maintenance
from coord.sync._portal import AmbiguousResult, Iteration
from coord.sync.auth import Auth
from coord.sync.batch import Batch, Pending
from coord.sync.cache import Cache, NodeCache
from coord.sync.cells import AtomicValue, Counter, IdAllocator, ShardedCounter
from coord.sync.client import Client, connect
from coord.sync.config import Config
from coord.sync.cron import Cron, Tick
from coord.sync.election import Election, Term
from coord.sync.gates import Barrier, CountdownLatch, DoubleBarrier, Gate, Joined
from coord.sync.grants import Grant, Hold
from coord.sync.membership import GroupSeat, Membership
from coord.sync.multi_lock import MultiLock, MultiLockGrant
from coord.sync.mutex import Mutex, MutexGrant
from coord.sync.partitioner import Ownership, Partitioner
from coord.sync.queues import DelayQueue, PriorityQueue, Queue
from coord.sync.rate_limiter import RateLimiter
from coord.sync.registry import Registration, Registry, ServiceView
from coord.sync.session import Session
from coord.sync.shares import (
    Permit,
    ReadGrant,
    ReadLock,
    RWLock,
    Semaphore,
    WriteGrant,
    WriteLock,
)
from coord.sync.signals import OneShot
from coord.sync.stm import StmTxn
from coord.sync.topic import Message, Subscription, Topic
from coord.sync.txn import Txn
from coord.sync.typed import Typed, TypedWatch
from coord.sync.watch import Watch
from coord.sync.work_queue import WorkItem, WorkQueue

__all__ = [
    "AmbiguousResult",
    "AtomicValue",
    "Auth",
    "Barrier",
    "Batch",
    "Cache",
    "Client",
    "Cluster",
    "Config",
    "CountdownLatch",
    "Counter",
    "Cron",
    "DelayQueue",
    "DoubleBarrier",
    "Election",
    "Gate",
    "Grant",
    "GroupSeat",
    "Hold",
    "IdAllocator",
    "Iteration",
    "Joined",
    "Maintenance",
    "Membership",
    "Message",
    "MultiLock",
    "MultiLockGrant",
    "Mutex",
    "MutexGrant",
    "NodeCache",
    "OneShot",
    "Ownership",
    "Partitioner",
    "Pending",
    "Permit",
    "PriorityQueue",
    "Queue",
    "RWLock",
    "RateLimiter",
    "ReadGrant",
    "ReadLock",
    "Registration",
    "Registry",
    "Semaphore",
    "ServiceView",
    "Session",
    "ShardedCounter",
    "StmTxn",
    "Subscription",
    "Term",
    "Tick",
    "Topic",
    "Txn",
    "Typed",
    "TypedWatch",
    "Watch",
    "WorkItem",
    "WorkQueue",
    "WriteGrant",
    "WriteLock",
    "connect",
]
