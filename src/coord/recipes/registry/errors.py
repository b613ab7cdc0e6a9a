"""What can go wrong with services."""

from __future__ import annotations

from coord.errors import CoordError, CoordTimeout


class AlreadyRegistered(CoordError):
    """Another registration has this id; ``takeover=True`` replaces it.

    ``holder`` is where that one listens, empty if this very client has the id.
    """

    def __init__(self, service: str, instance_id: str, holder: str) -> None:
        self.service = service
        self.instance_id = instance_id
        self.holder = holder
        who = f"by {holder}" if holder else "by this client"
        super().__init__(f"instance {instance_id!r} of service {service!r} is registered {who}")


class NoInstance(CoordError):
    """The service has no instance that could be picked right now."""

    def __init__(self, service: str) -> None:
        self.service = service
        super().__init__(f"service {service!r} has no instance")


class ServiceTimeout(CoordTimeout):
    """A registration, or the wait for instances, did not succeed in time; nothing is left of it."""
