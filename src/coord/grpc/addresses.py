"""Where the instances of a service listen for gRPC."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coord.recipes.registry import NoInstance

if TYPE_CHECKING:
    from collections.abc import Iterable

    from coord.recipes.registry import Instance


def address_of(instance: Instance, endpoint: str | None, service: str) -> str:
    """Return the address of an instance, or the one that it calls ``endpoint``. Raises :class:`NoInstance`."""
    if endpoint is None:
        return instance.addr
    named = instance.endpoints.get(endpoint)
    if named is None:
        raise NoInstance(f"{service}, which has no endpoint {endpoint}")
    return named


def addresses(instances: Iterable[Instance], endpoint: str | None) -> set[str]:
    """Return the addresses of those that have one."""
    if endpoint is None:
        return {each.addr for each in instances}
    return {each.endpoints[endpoint] for each in instances if endpoint in each.endpoints}
