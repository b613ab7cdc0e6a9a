"""Queues that hand items over, each to one taker at most (spec recipes 10).

The vocabulary: an *item* is a key below the queue's name, and its value; to *take* it is to delete it in a transaction
that holds only while it is there. The *order* says which item is the *head*, with which every take begins.
A *consumer* is what takes for one queue object: it follows the queue in a view, and its *getters*, the calls of
``get()``, stand in line.

What always holds:

* A take is decided by the store, in one transaction with an operation marker: an item goes to one taker or to none,
  whatever answers are lost.
* Takes of one queue come in its order, since nobody tries an item before it has seen those ahead of it gone, or takes
  them in the same transaction.
* A take that has begun is brought to its end. If its getter has gone meanwhile, the item goes to the next one in this
  process, or back into the queue.

Left out: what becomes of an item after it was taken. A taker that dies has lost it; a work queue
(:mod:`coord.recipes.work_queue`) keeps it until it is acknowledged.
"""

from coord.recipes.queues.delayed import DelayQueue
from coord.recipes.queues.errors import BadPriority, QueueEmpty
from coord.recipes.queues.fifo import Queue
from coord.recipes.queues.items import QueueItem
from coord.recipes.queues.prioritised import PriorityQueue

__all__ = ["BadPriority", "DelayQueue", "PriorityQueue", "Queue", "QueueEmpty", "QueueItem"]
