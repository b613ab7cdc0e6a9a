"""The rules of the state: revisions, keys on leases, and that members agree (S1 to S3)."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final

from typing_extensions import override

from coord.testing.sim.invariants import Member, QuietRule
from coord.wire import rpc_pb2
from coord_server.ops import decode_batch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_ALL: Final = rpc_pb2.RangeRequest(key=b"\0", range_end=b"\0")


class SameState(QuietRule):
    """S1: members that applied the same index are in the same state."""

    def __init__(self, report: Callable[[str, str, str], None]) -> None:
        super().__init__(report)
        self._digests: dict[int, tuple[tuple[int, ...], str]] = {}

    @override
    def checked(self, members: Sequence[Member]) -> None:
        for member in members:
            index = member.applier.applied_index
            digest = digest_of(member)
            known = self._digests.setdefault(index, (digest, member.name))
            if known[0] != digest:
                text = f"at entry {index} in state {digest}, and {known[1]} was in {known[0]}"
                self.report("S1", member.name, text)


def digest_of(member: Member) -> tuple[int, ...]:
    """Return what two members in the same state have in common: revisions, pairs, leases, members."""
    store = member.store
    leases = ",".join(
        f"{lease}:{member.lessor.granted_ttl(lease)}:{member.lessor.checkpointed(lease)}"
        for lease in sorted(member.lessor.ids())
    )
    members = sorted(
        member.SerializeToString(deterministic=True) for member in member.applier.members.members()
    )
    return (
        store.revision,
        store.compact_revision,
        zlib.crc32(store.range_body(_ALL)),
        zlib.crc32(leases.encode()),
        zlib.crc32(b"".join(members)),
    )


class Revisions(QuietRule):
    """S2: an operation moves the revision by one at most, and a member that serves has every acked one."""

    def __init__(self, report: Callable[[str, str, str], None], acked: Callable[[], int]) -> None:
        super().__init__(report)
        self._acked = acked
        self._readable: dict[str, bool] = {}
        self._newest_term = 0

    @override
    def opened(self, member: Member) -> None:
        self._readable[member.name] = False

    @override
    def applied(self, member: Member, index: int, term: int, data: bytes, before: int) -> None:
        moved = member.store.revision - before
        if moved < 0 or (moved > 1 and moved > len(decode_batch(data))):
            self.report("S2", member.name, f"entry {index} moves the revision by {moved}")

    @override
    def stepped(self, member: Member) -> None:
        core = member.core
        readable = (
            core.leader == core.node_id
            and core.commits_own_term
            and member.applier.applied_index >= core.commit_index
        )
        if readable:
            self._newest_term = max(self._newest_term, core.term)
        # One that has a successor, and does not know it, may be behind: it serves no read.
        is_news = readable and not self._readable[member.name] and core.term == self._newest_term
        if is_news and member.store.revision < self._acked():
            text = (
                f"leads at revision {member.store.revision}, and {self._acked()} was acknowledged"
            )
            self.report("S2", member.name, text)
        self._readable[member.name] = readable


class Attached(QuietRule):
    """S3: a key's lease exists and knows the key, and a lease's keys exist and hang on it."""

    @override
    def checked(self, members: Sequence[Member]) -> None:
        for member in members:
            lessor = member.lessor
            found = rpc_pb2.RangeResponse.FromString(member.store.range_body(_ALL))
            hung = sorted((pair.lease, pair.key) for pair in found.kvs if pair.lease)
            known = sorted((lease, key) for lease in lessor.ids() for key in lessor.keys(lease))
            if hung != known:
                text = f"keys hang on {hung}, and the lessor has {known}"
                self.report("S3", member.name, text)
