"""How long an item waits after an attempt that failed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from coord.errors import InvalidArgument

if TYPE_CHECKING:
    from coord.runtime import Rand


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Pauses between attempts, in seconds: ``first``, then ``factor`` times as long each time, at most ``most``.

    ``jitter`` is the part of each pause that chance may take away, so that items which failed together come back apart.
    """

    first: float = 1.0
    factor: float = 2.0
    most: float = 300.0
    jitter: float = 0.2

    def __post_init__(self) -> None:
        """Raise :class:`InvalidArgument` for what is no series of pauses."""
        if self.first < 0 or self.most < 0 or self.factor < 1 or not 0 <= self.jitter <= 1:
            raise InvalidArgument(
                "a backoff has first and most of at least 0 s, a factor of at least 1, a jitter from 0 to 1"
            )

    def after(self, attempt: int, rand: Rand) -> float:
        """Return the pause after the ``attempt``-th attempt, which counts from 1."""
        # Beyond this the power would not be a number any more; the limit has long been reached.
        pause = min(self.most, self.first * self.factor ** min(attempt - 1, 64))
        return pause * rand.uniform(1 - self.jitter, 1.0)
