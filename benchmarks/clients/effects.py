"""What a recipe must have done, checked while it is measured. For tasks and for threads; the standard library alone."""

from __future__ import annotations

import threading


class WrongEffect(Exception):
    """A recipe did not do what it promises."""


class Inside:
    """Counts who is inside of something that takes ``limit`` at a time."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._count = 0
        self._guard = threading.Lock()

    def enter(self) -> None:
        """Come in. Raises WrongEffect when there is no room."""
        with self._guard:
            self._count += 1
            if self._count > self._limit:
                raise WrongEffect(f"{self._count} at a time, {self._limit} may be")

    def leave(self) -> None:
        """Go out."""
        with self._guard:
            self._count -= 1


class Items:
    """What was put and not taken yet."""

    def __init__(self) -> None:
        self._there: set[bytes] = set()
        self._guard = threading.Lock()
        self._made = 0

    def make(self) -> bytes:
        """Return a new item."""
        with self._guard:
            self._made += 1
            item = b"%063d" % self._made
            self._there.add(item)
            return item

    def take(self, item: bytes) -> None:
        """Take note that an item has come. Raises WrongEffect when it is not there, or no more."""
        with self._guard:
            if item not in self._there:
                raise WrongEffect(f"{item!r} has come twice, or was never put")
            self._there.remove(item)

    def check_all_taken(self) -> None:
        """Raise WrongEffect when something that was put has not come."""
        if self._there:
            raise WrongEffect(f"{len(self._there)} items have not come")
