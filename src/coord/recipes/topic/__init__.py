"""Publish and subscribe: an ordered log of small messages that are kept for a while (spec recipes 17).

A message is a key below ``name/log/``; its create revision is its place in the order, the same for everybody.
All messages of a publisher within an eighth of the retention share a lease, a *bucket*, that lives for five quarters of
it: so each message lives for at least nine eighths, and the store cleans up by itself.

A durable subscriber keeps a *cursor*: the revision up to which it has handled everything.
Resuming is a watch from there, which replays also what has expired. Only where history was compacted the retained
messages are read instead, and then the question is whether something had expired unhandled. The cursor answers it: it
says how old what it left unhandled could be at most (its *lag*), and it lives for one retention after it was saved.
Whoever finds a cursor with a small lag knows that everything unhandled is still there; else a :class:`Gap` is told.
"""

from coord.recipes.topic.message import CursorBusy, Gap, Message
from coord.recipes.topic.subscription import Subscription
from coord.recipes.topic.topic import Topic

__all__ = ["CursorBusy", "Gap", "Message", "Subscription", "Topic"]
