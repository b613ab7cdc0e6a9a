"""Who may connect among those whose certificate is sound: ``--peer-cert-allowed-cn`` and its like.

A certificate passes if its common name is one of those allowed, to the letter, or if it is good for one of
the allowed hosts: by DNS name or IP address among its alternative names, never by its common name. This
is what Go's ``VerifyHostname`` says (RFC 6125: a ``*`` stands for the whole first label), since etcd asks that.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

from coord.rpc.admission import PeerRefused

if TYPE_CHECKING:
    from collections.abc import Mapping

    from coord.rpc.admission import Admit
    from coord.rpc.service import PeerInfo
    from coord_server.log import Log

# What was logged last about a host is remembered, so that one who tries all day is told of once.
_MAX_TOLD: Final = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """The names in a certificate, as ``ssl`` gives them."""

    common_name: str = ""
    dns_names: tuple[str, ...] = ()
    ip_addresses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AllowedNames:
    """Common names or host names, one of which a certificate must have."""

    common_names: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()

    def permit(self, shown: Shown) -> bool:
        """Tell whether a certificate with these names passes."""
        if shown.common_name and shown.common_name in self.common_names:
            return True
        return any(is_valid_for(shown, host) for host in self.hosts)

    def check(self, certificate: Mapping[str, object] | None) -> None:
        """Raise PeerRefused, which names what was shown and what is allowed, unless it passes."""
        if certificate is None:
            raise PeerRefused(f"no certificate was shown; {self._demand()}")
        shown = names_in(certificate)
        if not self.permit(shown):
            raise PeerRefused(
                "certificate authentication failed: "
                f'CN "{shown.common_name}", DNS names {_listed(shown.dns_names)} and '
                f"IP addresses {_listed(shown.ip_addresses)} were shown; {self._demand()}"
            )

    def _demand(self) -> str:
        if self.common_names:
            return f"the CN must be one of {_listed(self.common_names)}"
        return f"it must be for one of the hosts {_listed(self.hosts)}"


def names_in(certificate: Mapping[str, object]) -> Shown:
    """Return the names in what ``SSLSocket.getpeercert`` returns."""
    subject = cast("tuple[tuple[tuple[str, str], ...], ...]", certificate.get("subject", ()))
    others = cast("tuple[tuple[str, str], ...]", certificate.get("subjectAltName", ()))
    common = [value for part in subject for key, value in part if key == "commonName"]
    return Shown(
        # As Go reads a subject with several of them.
        common_name=common[-1] if common else "",
        dns_names=tuple(value for kind, value in others if kind == "DNS"),
        ip_addresses=tuple(value for kind, value in others if kind == "IP Address"),
    )


def is_valid_for(shown: Shown, host: str) -> bool:
    """Tell whether a certificate with these names is one of ``host``, a DNS name or an IP address."""
    address = _address(host.removeprefix("[").removesuffix("]"))
    if address is not None:
        return any(_address(other) == address for other in shown.ip_addresses)
    name = _folded(host).removesuffix(".")
    return any(_matches(_folded(pattern), name) for pattern in shown.dns_names)


def _matches(pattern: str, name: str) -> bool:
    if not pattern or not name:
        return False
    if pattern == name:
        return True
    first, _, rest = pattern.partition(".")
    label, _, domain = name.partition(".")
    # A "*" among the allowed hosts is not a name that a wildcard could stand for.
    return first == "*" and bool(rest) and rest == domain and label not in {"", "*"}


def _folded(name: str) -> str:
    # Only ASCII: other letters are none of a DNS name, and lower() would make some of them ASCII.
    return "".join(c.lower() if c.isascii() else c for c in name)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _listed(names: tuple[str, ...]) -> str:
    return "[" + ", ".join(f'"{name}"' for name in names) + "]"


def admit_called(allowed: AllowedNames) -> Admit | None:
    """Return what judges those that we connect to; the caller of ``connect`` tells of refusals."""
    if not (allowed.common_names or allowed.hosts):
        return None

    def admit(peer: PeerInfo) -> None:
        allowed.check(peer.certificate)

    return admit


def admit_callers(allowed: AllowedNames, log: Log, *, kind: str) -> Admit | None:
    """Return what judges those that connect to us, and logs refusals: nobody else would hear of them.

    ``kind`` is who they should be, client or peer.
    """
    if not (allowed.common_names or allowed.hosts):
        return None
    told: dict[str, str] = {}
    rejected = f"rejected connection on {kind} endpoint"

    def admit(peer: PeerInfo) -> None:
        host = peer.address.rpartition(":")[0]
        try:
            allowed.check(peer.certificate)
        except PeerRefused as refused:
            if told.get(host) != str(refused):
                if len(told) >= _MAX_TOLD:
                    told.clear()
                told[host] = str(refused)
                log.warning(rejected, remote_addr=peer.address, error=str(refused))
            raise
        told.pop(host, None)

    return admit
