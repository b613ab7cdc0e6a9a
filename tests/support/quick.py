"""Clients whose carriers lose patience sooner, so that tests of dead connections need not wait as long as users."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import coord
from coord.client import Connecting
from coord.transport import CarrierLimits

QUICK = CarrierLimits(
    connect=0.5, suspicion=5.0, keepalive_time=0.3, keepalive_timeout=0.2, drain=0.2
)


def connect_quick(
    endpoints: str | Sequence[str],
    *,
    limits: CarrierLimits = QUICK,
    **options: Any,  # noqa: ANN401 - passed on
) -> Connecting:
    """As ``coord.connect()``, with these limits."""
    made = coord.connect(endpoints, **options)
    return Connecting(replace(made._options, carrier_limits=limits))
