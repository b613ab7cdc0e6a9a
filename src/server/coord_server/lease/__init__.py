"""Leases: names for a span of life that keys can hang on, and who decides when that span is over.

The problem. A client that dies cannot clean up. So it writes its keys under a lease, keeps the lease
alive while it lives, and the cluster deletes the keys once the renewals stop. All members must delete
the same keys at the same place of the log, yet no two members' clocks agree.

The vocabulary. A *lease* has an id (any int64 but zero), the *granted TTL* in seconds, and a set of
*attached* keys. Its *deadline* is the moment after which it may be revoked. The *primary* is the
lessor of the member that leads; *promotion* makes it so and *demotion* ends that. A *checkpoint* is a
remaining time that went through the log, so that a new primary need not start from the full TTL.

The invariants. Existence, granted TTL, checkpoint and attachment change only by applied entries, so
they are equal on every member at the same index. Deadlines exist on the primary alone, are never
written down, and only ever lead to a proposal: a lease is gone when its revocation is applied, not
when its deadline passes. A lease lives at least its TTL beyond the last renewal that was answered;
it may live longer, by a pass of the scan, by consensus, or by a change of leader, which gives every
lease its full time again. An expired lease cannot be renewed: its revocation may be on its way. Nor can one that has
a checkpoint, or whose checkpoint is on its way, before that was taken back through the log.

Left out: the clock (moments come in as seconds of any monotonic clock), who proposes revocations
(``coord_server.expiry``), deleting the keys (``coord_server.apply``), the wire (``coord_server.api.lease``).
"""

from coord_server.lease.lessor import MAX_TTL_S, Lessor, minimum_ttl_s

__all__ = ["MAX_TTL_S", "Lessor", "minimum_ttl_s"]
