"""What stands between a client and its carrier: nothing in programs, faults in tests (``coord.testing.faults``)."""

from __future__ import annotations

from collections.abc import Callable

from coord.transport.base import Transport

Tap = Callable[[str, Transport], Transport]
"""Takes the client's name and its carrier, and returns what the client uses instead."""

_taps: list[Tap] = []


def insert(tap: Tap) -> Callable[[], None]:
    """Put ``tap`` under every client that this process connects from now on; returns what takes it away again."""
    _taps.append(tap)
    return lambda: _taps.remove(tap) if tap in _taps else None


def tapped(name: str, transport: Transport) -> Transport:
    """Return the carrier of a new client, with everything that is to stand before it."""
    for tap in tuple(_taps):
        transport = tap(name, transport)
    return transport
