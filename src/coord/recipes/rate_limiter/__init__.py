"""A bound on permits per second that a whole fleet shares (spec recipes 19).

The key ``name`` holds rate, burst and the *mode*, which everybody follows:

* *strict*: each permit, or batch of permits, is a transaction on that key (``meter``, ``strict``).
* *divided*: whoever uses the limiter is a member of the group ``name/members``, and has a *share* of the rate by its
  weight, from which it gives permits without asking anybody (``part``, ``divided``).

In both a bucket holds the permits that may be used at once: one in the store, or one in each member.

Shares never sum above the rate, though members learn of each other at different times: a smaller share is in force at
once, a larger one only when it has stood for one ``ttl``, and whoever has not seen the group for half of that has none.
``part`` says why that is enough.

Left out: a mode that changes by itself with the load. Who would decide that knows only its own part of it.
"""

from coord.recipes.rate_limiter.errors import LimiterMismatch, RateLimitTimeout
from coord.recipes.rate_limiter.limiter import RateLimiter
from coord.recipes.rate_limiter.meter import RateMode
from coord.recipes.rate_limiter.state import LimiterMember, LimiterState

__all__ = [
    "LimiterMember",
    "LimiterMismatch",
    "LimiterState",
    "RateLimitTimeout",
    "RateLimiter",
    "RateMode",
]
