"""Majorities."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from coord_server.raft.types import Index, NodeId


def majority(voters: int) -> int:
    """Return how many of ``voters`` members are more than half."""
    return voters // 2 + 1


def has_majority(voters: Collection[NodeId], granted: Collection[NodeId]) -> bool:
    """Return whether more than half of the voters are among ``granted``."""
    return sum(voter in granted for voter in voters) >= majority(len(voters))


def quorum_index(voters: Collection[NodeId], match: Mapping[NodeId, Index]) -> Index:
    """Return the highest index that more than half of the voters have durably (``match``)."""
    held = sorted((match[voter] for voter in voters), reverse=True)
    return held[majority(len(voters)) - 1]
