"""The ``grpc-timeout`` header: at most eight digits and a unit (gRPC over HTTP/2, "Requests")."""

from __future__ import annotations

import math
from typing import Final, overload

_SECONDS: Final[dict[int, float]] = {
    ord("H"): 3600.0,
    ord("M"): 60.0,
    ord("S"): 1.0,
    ord("m"): 1e-3,
    ord("u"): 1e-6,
    ord("n"): 1e-9,
}
# Finest first, so that the first one that fits loses least.
_NANOSECONDS: Final = (
    (b"n", 1),
    (b"u", 1_000),
    (b"m", 1_000_000),
    (b"S", 1_000_000_000),
    (b"M", 60_000_000_000),
    (b"H", 3_600_000_000_000),
)
_LARGEST: Final = 99_999_999
# The nearest float is a little below the exact product, so it always fits.
_LARGEST_NANOSECONDS: Final = float(_LARGEST * 3_600_000_000_000)


@overload
def parse_timeout(value: bytes) -> float: ...
@overload
def parse_timeout(value: None) -> None: ...
def parse_timeout(value: bytes | None) -> float | None:
    """Return the timeout in seconds; None for a call that has no such header.

    Raises ValueError for malformed values.
    """
    if value is None:
        return None
    digits = value[:-1]
    unit = _SECONDS.get(value[-1]) if value else None
    if unit is None or not digits.isdigit() or len(digits) > 8:
        raise ValueError("malformed grpc-timeout")
    return int(digits) * unit


def format_timeout(seconds: float) -> bytes:
    """Return the header value for ``seconds``, rounded up in the finest unit that can hold it.

    What has run out already is sent as one nanosecond, and what is beyond the format (over
    11,000 years) as its largest value. Raises ValueError for NaN.
    """
    if math.isnan(seconds):
        raise ValueError("timeout is not a number")
    # Rounded first: 0.1 s must not become 100,001 us by the last bit of its product.
    nanoseconds = round(min(max(1.0, seconds * 1e9), _LARGEST_NANOSECONDS))
    return next(
        b"%d%s" % (-(-nanoseconds // scale), unit)
        for unit, scale in _NANOSECONDS
        if nanoseconds <= _LARGEST * scale
    )
