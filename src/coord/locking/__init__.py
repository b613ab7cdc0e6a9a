"""What a lock has beyond its place in line (spec recipes 3).

Vocabulary: an *owner* is the task or thread that acquires; a *line* is the keys under a name, the first of which holds
it; a *wait* leads from an entry that waits to the one that holds.

* :mod:`coord.locking.entries`: the entries of a line, read back.
* :mod:`coord.locking.single_key`: the layout of one key per lock, for those who come from such a lock.
* :mod:`coord.locking.delay`: the pause after a holder that did not leave by itself.
* :mod:`coord.locking.waits`: who waits for whom, as far as leases and metadata tell.
* :mod:`coord.locking.deadlock`: circles of waits.
* :mod:`coord.locking.trouble`: what is wrong with the store, for time-outs.

Left out: acquiring and releasing, which is :mod:`coord.mutex` and :mod:`coord.recipes.multi_lock`.
"""
