"""The rules of what a member holds: every queue has a bound, and in the end nothing is left (B1)."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from typing_extensions import override

from coord.testing.sim.invariants import Member, QuietRule
from coord_server.config_changes import MAX_WAITING
from coord_server.forwarding import MAX_WAITING_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from coord.testing.sim.server_node import ServerNode

# A queue that is bounded by bytes takes what comes while it is not full, so one piece more than that.
_PIECE_BYTES: Final = 2 << 20
# Of all watchers together, beyond what one of them may have (architecture: "mvcc").
_BACKLOG_BYTES: Final = 64 << 20


class Bounds(QuietRule):
    """B1, as long as a member runs: what waits in it is bounded, and so is what it applies in one go."""

    def __init__(self, report: Callable[[str, str, str], None]) -> None:
        super().__init__(report)
        self._tapped: dict[str, int] = {}

    @override
    def checked(self, members: Sequence[Member]) -> None:
        for member in members:
            for name, size, bound in _queues(member.node):
                if size > bound:
                    self.report("B1", member.name, f"{name}: {size}, and at most {bound} may be")

    @override
    def stepped(self, member: Member) -> None:
        if self._tapped.get(member.name) != member.node.epoch:
            applying: Any = getattr(_replica(member.node), "_applying", None)
            if applying is not None:
                self._tapped[member.name] = member.node.epoch
                self._follow(member, applying)

    def _follow(self, member: Member, applying: Any) -> None:  # noqa: ANN401 - a private part of the server
        """Look at every part that a member is handed to apply."""
        bound = member.node.config.max_committed_bytes
        take = applying.take

        def followed(effects: Any) -> None:  # noqa: ANN401
            size = sum(len(entry.data) for entry in effects.committed)
            if size > bound and len(effects.committed) > 1:
                text = f"applies {size} bytes in one go, and at most {bound} may be"
                self.report("B1", member.name, text)
            take(effects)

        applying.take = followed


def leftovers(node: ServerNode) -> dict[str, int]:
    """Return what a member still holds that it should not when nobody has asked it for anything."""
    replica: Any = _replica(node)
    server: Any = node.server
    if replica is None or server is None or node.loop is None:
        return {}
    held = {
        "operations": len(replica._proposals),  # noqa: SLF001
        "reads": len(replica._reads),  # noqa: SLF001
        "entries on their way": len(replica._delivery._inflight),  # noqa: SLF001
        "groups at the leader": len(replica._forwarding._sent),  # noqa: SLF001
        "groups of others": len(replica._forwarding._waiting),  # noqa: SLF001
        "changes of membership": len(replica._changes._waiting),  # noqa: SLF001
        "watchers": replica.hub.watcher_count,
        "bytes for watchers": replica.hub.backlog_bytes,
        "connections": server.connection_count,
        "renewals that wait": len(replica.lessor._waiting),  # noqa: SLF001
    }
    # The link to each peer is a task, and there is no other.
    tasks = Counter(task.get_name() for task in asyncio.all_tasks(node.loop))
    links = Counter(f"peer {peer:x}" for peer in server._peering.mesh.peers)  # noqa: SLF001
    held |= {f"tasks {name!r}": count for name, count in (tasks - links).items()}
    return {name: count for name, count in held.items() if count}


def _replica(node: ServerNode) -> Any:  # noqa: ANN401 - a private part of the server
    return getattr(node.server, "_replica", None)


def _queues(node: ServerNode) -> Iterator[tuple[str, int, int]]:
    """Return what waits in a member: what it is, how much, and how much may be."""
    replica = _replica(node)
    if replica is None:
        return
    bounds = replica._bounds  # noqa: SLF001
    proposals = replica._proposals  # noqa: SLF001
    yield "operations that wait", len(proposals), bounds.max_queued_ops
    most = bounds.max_queued_bytes + _PIECE_BYTES
    yield "bytes of operations that wait", proposals._size_bytes, most  # noqa: SLF001
    yield "reads that wait", len(replica._reads), bounds.max_queued_ops  # noqa: SLF001
    forwarding = replica._forwarding  # noqa: SLF001
    yield "bytes of groups", forwarding._waiting_bytes, MAX_WAITING_BYTES  # noqa: SLF001
    yield "changes that wait", len(replica._changes._waiting), MAX_WAITING  # noqa: SLF001
    yield "bytes for watchers", replica.hub.backlog_bytes, _BACKLOG_BYTES + _PIECE_BYTES
    core = replica._core  # noqa: SLF001
    most = core._member.config.max_inflight  # noqa: SLF001
    if core._leadership is not None:  # noqa: SLF001
        for peer, progress in core._leadership.replication.progress.items():  # noqa: SLF001
            yield f"appends to {peer:x}", len(progress.inflight), most
    server: Any = node.server
    mesh = server._peering.mesh  # noqa: SLF001
    for peer in mesh.peers:
        yield f"bytes for {peer:x}", mesh.waiting_bytes(peer), mesh.limits.waiting_bytes
