"""``--force-new-cluster``: one member goes on alone with what it has, when the others are lost for good.

Everything that its log holds becomes state, also entries that nobody knows to be committed: some of
them were acknowledged, and those that were not are better kept than lost. Then all other members are
removed and the log is over; a new one begins behind it. What only the others had is lost, and two
members that do this become two clusters: that is the operator's business, and why it takes a flag.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from coord_server.bootstrap import BootstrapError
from coord_server.raft.types import EntryKind

if TYPE_CHECKING:
    from collections.abc import Iterable

    from coord_server.apply import Applier
    from coord_server.raft.types import Entry
    from coord_server.storage.backend import Backend


def force_new_cluster(
    applier: Applier, backend: Backend, entries: Iterable[Entry], member_id: int
) -> tuple[int, ...]:
    """Apply the rest of the log, leave all other members behind and write it all; return their ids.

    The log is to be released up to ``applier.applied_index``, and raft begins there. Interrupted, it
    can be done again. Raises BootstrapError if this member itself was removed.
    """
    for entry in entries:
        if entry.kind is EntryKind.CONFIG:
            applier.apply_config(entry.index, entry.term, entry.data)
        else:
            applier.apply(entry.index, entry.term, entry.data, answers=False)
    if applier.members.get(member_id) is None:
        raise BootstrapError(
            f"--force-new-cluster: the member {member_id:x} was removed from its cluster "
            "and cannot carry it on"
        )
    gone = applier.members.keep_only(member_id)
    batch = applier.take_batch()
    if batch is not None:
        backend.write(batch)
        applier.flushed()
    return tuple(gone)
