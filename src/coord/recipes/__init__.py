"""Recipes built on sessions, entries, waits and caches; one file each (``spec recipes``).

What they share lies below them: :mod:`coord.entry` (one leased key of ours), :mod:`coord.contender` (a place in a
line), :mod:`coord.waiter` (all waiting), :mod:`coord.grants` (what is held), :mod:`coord.cache` (a live view).
"""
