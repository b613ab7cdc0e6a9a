"""The ids of members and clusters, computed as etcd computes them (etcd ops: "IDs")."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def member_id(peer_urls: Iterable[str], token: str) -> int:
    """Return the id of a founder."""
    return _id_of("".join(sorted(peer_urls)).encode() + token.encode())


def added_member_id(peer_urls: Iterable[str], unix_s: int) -> int:
    """Return the id of a member that is added to a running cluster in this second."""
    return _id_of("".join(sorted(peer_urls)).encode() + str(unix_s).encode())


def cluster_id(member_ids: Iterable[int]) -> int:
    """Return the id of the cluster that these members found."""
    return _id_of(b"".join(number.to_bytes(8, "big") for number in sorted(member_ids)))


def _id_of(text: bytes) -> int:
    # The hash spreads names; nothing relies on its strength.
    return int.from_bytes(hashlib.sha1(text, usedforsecurity=False).digest()[:8], "big")
