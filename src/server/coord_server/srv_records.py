"""The founders as DNS knows them: ``--discovery-srv`` (etcd ops: "Bootstrap").

A record of ``_etcd-server-ssl._tcp.DOMAIN`` is a member with https, one of ``_etcd-server._tcp.DOMAIN``
a member with http. DNS knows no names: the member whose address is one of our advertised ones is us, and
the others are called 0, 1, 2. Names are for people; ids are made of the URLs, which all members
see alike.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from coord_server.bootstrap import BootstrapError
from coord_server.config import MissingExtra
from coord_server.flag_values import Url

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coord_server.config import Config
    from coord_server.log import Log

# Service and scheme, in the order in which etcd numbers the members.
_SERVICES: Final = (("etcd-server-ssl", "https"), ("etcd-server", "http"))
_LOOKUP_S: Final = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SrvTarget:
    """Where one record points; ``host`` has no final dot."""

    host: str
    port: int


class SrvResolver(Protocol):
    """DNS, as far as this needs it. Both methods raise OSError for a name without such records."""

    async def services(self, name: str) -> Sequence[SrvTarget]:
        """Return the SRV records of ``name``, by priority, then by target."""
        ...

    async def addresses(self, host: str) -> Sequence[str]:
        """Return the IP addresses of ``host``; an IP address is its own."""
        ...


class DnsResolver:
    """The real one, over dnspython. Raises MissingExtra if that is not installed."""

    async def services(self, name: str) -> Sequence[SrvTarget]:
        """Ask for SRV records."""
        answer = await self._ask(name, "SRV")
        ordered = sorted(answer, key=lambda r: (r.priority, str(r.target), r.port))
        return [SrvTarget(host=str(r.target).rstrip("."), port=int(r.port)) for r in ordered]

    async def addresses(self, host: str) -> Sequence[str]:
        """Ask for A and AAAA records."""
        if _is_address(host):
            return [host]
        found: list[str] = []
        missing: OSError | None = None
        for kind in ("A", "AAAA"):
            try:
                found += sorted(str(record.address) for record in await self._ask(host, kind))
            except OSError as error:
                missing = error
        if not found and missing is not None:
            raise missing
        return found

    async def _ask(self, name: str, kind: str) -> Any:  # noqa: ANN401 - an untyped package
        try:
            # By name: an optional package, which opens its own sockets.
            resolving = importlib.import_module("dns.asyncresolver")
            failures = importlib.import_module("dns.exception")
        except ImportError:
            raise MissingExtra("--discovery-srv", "srv") from None
        try:
            return await resolving.resolve(name, kind, lifetime=_LOOKUP_S)
        except failures.DNSException as error:
            raise OSError(f"lookup {name}: {error}") from error


async def discovered_members(
    config: Config, resolver: SrvResolver, log: Log
) -> dict[str, tuple[Url, ...]]:
    """Return the members that DNS names, this one among them by its own name. Raises BootstrapError."""
    own = await _own_addresses(config, resolver)
    named: dict[str, tuple[Url, ...]] = {}
    problems: list[str] = []
    for service, scheme in _SERVICES:
        suffix = f"-{config.discovery_srv_name}" if config.discovery_srv_name else ""
        question = f"_{service}{suffix}._tcp.{config.discovery_srv}"
        try:
            targets = await resolver.services(question)
        except OSError as error:
            problems.append(f"error querying DNS SRV records for _{service}{suffix} {error}")
            continue
        for target in targets:
            url = Url(scheme=scheme, host=target.host, port=target.port)
            try:
                name = await _name_of(url, own, config.name, resolver)
            except (OSError, BootstrapError) as error:
                problems.append(f"{question}: {error}")
                continue
            if name is None:
                name = str(sum(1 for known in named if known != config.name))
            named[name] = (*named.get(name, ()), url)
            log.info("got bootstrap from DNS for etcd-server", node=f"{name}={url}")
    if problems:
        log.warning("failed to resolve during SRV discovery", error="; ".join(problems))
    if not named:
        raise BootstrapError(f"error setting up initial cluster: {'; '.join(problems)}")
    if config.name not in named:
        raise BootstrapError(f'cannot find local etcd member "{config.name}" in SRV records')
    return named


async def _own_addresses(config: Config, resolver: SrvResolver) -> dict[tuple[str, int], Url]:
    own: dict[tuple[str, int], Url] = {}
    for url in config.initial_advertise_peer_urls:
        try:
            addresses = await resolver.addresses(url.host)
        except OSError as error:
            raise BootstrapError(f"error setting up initial cluster: {error}") from error
        own |= {(address, url.port): url for address in addresses}
    return own


async def _name_of(
    url: Url, own: dict[tuple[str, int], Url], name: str, resolver: SrvResolver
) -> str | None:
    """Return our name if a record points to us, None if to somebody else."""
    for address in await resolver.addresses(url.host):
        advertised = own.get((address, url.port))
        if advertised is not None:
            if advertised.scheme != url.scheme:
                raise BootstrapError(
                    f"bootstrap at {url} has scheme mismatch with expected peer {advertised}"
                )
            return name
    return None


def _is_address(host: str) -> bool:
    return ":" in host or host.replace(".", "").isdigit()
