"""What a rate limiter raises."""

from __future__ import annotations

from coord.errors import CoordError, CoordTimeout


class RateLimitTimeout(CoordTimeout):
    """No permit came in time; none was taken."""


class LimiterMismatch(CoordError):
    """The limiter has another rate, burst or mode in the store; ``set_rate()`` changes the first two for everybody.

    ``stored`` and ``given`` are pairs of rate and burst, ``stored_mode`` and ``given_mode`` how permits are shared out.
    """

    def __init__(
        self,
        name: bytes,
        *,
        stored: tuple[float, float],
        given: tuple[float, float],
        stored_mode: str = "strict",
        given_mode: str = "strict",
    ) -> None:
        self.name = name
        self.stored = stored
        self.given = given
        self.stored_mode = stored_mode
        self.given_mode = given_mode
        if stored != given:
            text = (
                f"allows {stored[0]:g} per second and {stored[1]:g} at once,"
                f" not {given[0]:g} and {given[1]:g}"
            )
        else:
            text = f"is {stored_mode}, not {given_mode}"
        super().__init__(f"rate limiter {name!r} {text}")
