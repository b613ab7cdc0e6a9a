"""A shared server after a test as before it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import coord
from coord.sync import connect
from coord.testing.faults import OBSERVER

if TYPE_CHECKING:
    from collections.abc import Generator


@contextlib.contextmanager
def removing_leftovers(url: str) -> Generator[None]:
    """Remove the keys and leases at the end that came during the block, however it ends."""
    with connect(url, name=OBSERVER) as client:
        revision = client.get_range("\0", "\0").revision
        known = set(client.leases())
        try:
            yield
        finally:
            # Leases first: they take their keys along.
            for lease in sorted(set(client.leases()) - known):
                with contextlib.suppress(coord.LeaseNotFound):
                    client.lease_revoke(lease)
            left = client.get_range("\0", "\0", min_create_revision=revision + 1, keys_only=True)
            for found in left.items:
                client.delete(found.key)
