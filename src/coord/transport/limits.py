"""How patient a carrier is; one value for both, so that tests can hand in a quicker one."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class CarrierLimits:
    """Times in seconds.

    ``stagger`` is how long the next endpoint waits for the one before it.
    ``suspicion``: how long an endpoint that answers but cannot serve, such as a member without a leader, comes last.
    A peer that vanished without a word is noticed within ``keepalive_time`` + ``keepalive_timeout``, while a call or
    stream is open; etcd forbids pings more often than every 5 s, and without a call.
    ``drain``: how long calls of an endpoint that has left the list may go on; what is still open then is ended, and
    watches and renewals move on.
    """

    connect: float = 3.0
    stagger: float = 0.25
    suspicion: float = 5.0
    keepalive_time: float = 10.0
    keepalive_timeout: float = 5.0
    drain: float = 5.0
