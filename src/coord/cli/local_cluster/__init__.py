"""``coord cluster``: a cluster of several members on this machine, to develop against and to break.

The problem: what a program does when a member dies, pauses or is cut off should be tried at one's desk,
before it happens elsewhere. ``coord cluster start`` runs the members in the foreground, and the other
commands tell it, from another shell, what to do to them.

Vocabulary: the *keeper* is the process of ``start``, which owns the members; its *control socket* is a unix
socket in a directory of the user, or in the data directory if there is one; an *order* is what comes over it.

Invariants: no member outlives the keeper when that ends by itself or by a signal that it can catch; only the
user who started it can give it orders.
"""
