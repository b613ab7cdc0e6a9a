"""What the connection has to say to a wait that was too long."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from coord.core import Core


def last_store_error(core: Core) -> str:
    """Return what last went wrong with an endpoint that still does not answer, for messages; empty if all is well."""
    told = [
        f"{each.endpoint}: {each.last_error}"
        for each in core.carrier.health.read().endpoints
        if each.last_error
    ]
    return f"last store error: {'; '.join(told)}" if told else ""
