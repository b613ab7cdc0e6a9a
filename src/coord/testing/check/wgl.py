"""Whether concurrent operations could have happened one after the other (linearizability).

The search of Wing and Gong, with the memory that Lowe added: try every operation that nothing else must precede,
take it into the order if the state allows it, and go back when nothing fits; a set of done operations that has led to
a state once before leads nowhere new. Operations of unknown outcome may be taken at any time after they began, or
never.

A hint orders what is tried first: with the revision that a write was told, a right history is walked through without
a step back. A hint proves nothing, so what is found does not depend on it. A legal read is taken at once: whatever could come
before it can come after it. That holds only for what changes no state at all: a write that happens to change nothing
here may be needed later.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from coord.runtime import RealClock, invariant
from coord.testing.check.timeline import NEVER

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Sequence

    from coord.runtime import Clock

_NO_HINT = NEVER
# Steps between two looks at the clock.
_STEPS_PER_LOOK = 256


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Move:
    """One operation: when it may take effect, and what it does to a state.

    ``apply`` returns the states that it may lead to, none if it cannot have happened there. ``begun`` and ``ended``
    are places in the order of time; ``ended`` is ``NEVER`` if it need not have happened at all. ``is_read``: it never
    changes a state, whatever the state is.
    """

    name: str
    begun: int
    ended: int
    apply: Callable[[Any], Sequence[Hashable]]
    hint: tuple[int, int] = (_NO_HINT, 0)
    text: str = ""
    is_read: bool = False


class Budget:
    """How long a search may take: seconds of a clock, and steps, whichever ends first."""

    def __init__(
        self, seconds: float, *, steps: int = 5_000_000, clock: Clock | None = None
    ) -> None:
        self._clock: Clock = clock or RealClock()
        self._end = self._clock.mono() + seconds
        self._steps = steps

    def spend(self) -> bool:
        """Take a step; False if there is none left."""
        self._steps -= 1
        if self._steps % _STEPS_PER_LOOK == 0 and self._clock.mono() >= self._end:
            self._steps = 0
        return self._steps > 0


@dataclass(slots=True, kw_only=True)
class Found:
    """What a search came to. ``is_legal`` is None if its budget ran out.

    ``order`` is a legal order, or the longest beginning of one; ``stuck`` what could come next in time, and fits
    nowhere.
    """

    is_legal: bool | None
    order: list[Move] = field(default_factory=list[Move])
    stuck: list[Move] = field(default_factory=list[Move])


def search(moves: Sequence[Move], initial: Hashable, budget: Budget) -> Found:
    """Look for a legal order of moves from an initial state."""
    return _Search(moves, initial, budget).run()


class _Search:
    """Moves in the order of their beginnings, as a doubly linked list of what is not done yet."""

    def __init__(self, moves: Sequence[Move], initial: Hashable, budget: Budget) -> None:
        self._moves = sorted(moves, key=lambda move: move.begun)
        self._budget = budget
        self._state: Any = initial
        count = len(self._moves)
        # The last place is both ends of the list.
        self._next = [*range(1, count + 1), 0]
        self._previous = [count, *range(count)]
        self._required = sum(move.ended != NEVER for move in self._moves)
        self._bits = 0

    def run(self) -> Found:
        """Search."""
        seen: set[tuple[int, Hashable]] = set()
        done: list[int] = []
        states: list[Any] = []
        options: list[Iterator[tuple[int, Any]]] = [self._options()]
        best = Found(is_legal=False, stuck=self._candidates())
        while self._required:
            if not self._budget.spend():
                best.is_legal = None
                return best
            choice = next(options[-1], None)
            if choice is None:
                options.pop()
                if not done:
                    return best
                self._put_back(done.pop())
                self._state = states.pop()
                continue
            place, state = choice
            key = (self._bits | 1 << place, state)
            if key in seen:
                continue
            seen.add(key)
            states.append(self._state)
            self._take(place, state)
            done.append(place)
            if len(done) > len(best.order):
                order = [self._moves[each] for each in done]
                best = Found(is_legal=False, order=order, stuck=self._candidates())
            options.append(self._options())
        return Found(is_legal=True, order=[self._moves[each] for each in done])

    def _take(self, place: int, state: Any) -> None:  # noqa: ANN401 - the model's
        before, after = self._previous[place], self._next[place]
        self._next[before], self._previous[after] = after, before
        self._bits |= 1 << place
        self._state = state
        self._required -= self._moves[place].ended != NEVER

    def _put_back(self, place: int) -> None:
        before, after = self._previous[place], self._next[place]
        self._next[before] = self._previous[after] = place
        self._bits &= ~(1 << place)
        self._required += self._moves[place].ended != NEVER

    def _possible(self) -> list[int]:
        """Return the places of moves that no other must precede."""
        moves, following = self._moves, self._next
        end = len(moves)
        first_end = NEVER
        found: list[int] = []
        place = following[end] if moves else end
        while place != end:
            move = moves[place]
            if move.begun > first_end:
                break
            found.append(place)
            first_end = min(first_end, move.ended)
            place = following[place]
        return found

    def _candidates(self) -> list[Move]:
        return [self._moves[place] for place in self._possible()]

    def _options(self) -> Iterator[tuple[int, Any]]:
        """Return what may be done next and where it leads, the likeliest first."""
        state = self._state
        found: list[tuple[int, Any]] = []
        for place in self._possible():
            move = self._moves[place]
            following = [(place, state_after) for state_after in move.apply(state)]
            if not move.is_read:
                found += following
                continue
            invariant(all(after == state for _, after in following), f"{move.name} is no read")
            if following and move.ended != NEVER:
                return iter(following)
        found.sort(key=lambda option: self._moves[option[0]].hint)
        return iter(found)
