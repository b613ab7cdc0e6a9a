"""A queue of jobs that survive whoever works on them (spec recipes 11).

The vocabulary: an *item* is a job, a key that never changes until it is done; a *claim* is a consumer's right to work on
it, a key under its session's lease; *attempts* counts the claims. To *acknowledge* an item ends it, together with the
effects in the store that belong to it; to refuse it (*nack*) gives it back. After too many attempts it becomes a *dead
letter*, which waits for somebody to look at it. A *tombstone* says for a while that an item was done, and by whom.

What always holds:

* An item is there until it is acknowledged or dead, whatever happens to its consumers: a claim goes with its lease, and
  the item is then where it was in the line.
* At most one claim is valid at a time, and its *token* is larger than those of all claims on the item before it.
* What is acknowledged together with an item happens exactly once, since it is one transaction with the end of the claim.
* A claim's transaction names the revisions of the item and of its attempts; both change with every claim. So a copy
  that arrives late finds them changed and does nothing.

Left out: effects elsewhere, which a consumer that dies after them and before the acknowledgement leaves to be repeated;
the token tells such systems which attempt is the newest.
"""

from coord.recipes.work_queue.backoff import Backoff
from coord.recipes.work_queue.claim import WorkItem
from coord.recipes.work_queue.errors import ClaimLost, ConfMismatch, ReceiveTimeout
from coord.recipes.work_queue.layout import DeadLetter, WorkReceipt, WorkStats
from coord.recipes.work_queue.queue import WorkQueue

__all__ = [
    "Backoff",
    "ClaimLost",
    "ConfMismatch",
    "DeadLetter",
    "ReceiveTimeout",
    "WorkItem",
    "WorkQueue",
    "WorkReceipt",
    "WorkStats",
]
