"""From a data directory to a member that can run: log, backend, applied state and raft, put together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from coord.wire.fast import HeaderStamp
from coord_server.apply import Applier, applied_index
from coord_server.bootstrap import DataDirError, Identity, identity_from_metadata
from coord_server.force_new import force_new_cluster
from coord_server.initial_cluster import FOUNDED_INDEX, check_recovered, is_blank, settle
from coord_server.installation import installed_position
from coord_server.lease.lessor import minimum_ttl_s
from coord_server.mvcc.hub import WatchHub
from coord_server.raft import (
    HardState,
    Index,
    NodeId,
    RaftConfig,
    RaftCore,
    RaftLog,
    Term,
)
from coord_server.restore import check_whole, restore
from coord_server.storage.replaceable_backend import ReplaceableBackend
from coord_server.storage.wal import SEGMENT_BYTES, Wal

if TYPE_CHECKING:
    from collections.abc import Callable

    from coord_server.bootstrap import DataDir
    from coord_server.config import Config
    from coord_server.initial_cluster import Beginning
    from coord_server.log import Log
    from coord_server.storage.backend import Backend
    from coord_server.storage.disk import Disk
    from coord_server.storage.wal_recovery import Recovered


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """The opened parts of one member.

    ``close`` gives up files; what was applied but not flushed is in the log.
    """

    identity: Identity
    wal: Wal
    backend: ReplaceableBackend
    stamp: HeaderStamp
    applier: Applier
    hub: WatchHub
    core: RaftCore
    is_new: bool

    def close(self) -> None:
        """Close log and backend."""
        self.wal.close()
        self.backend.close()


def open_state(
    config: Config,
    disk: Disk,
    data_dir: DataDir,
    *,
    make_backend: Callable[[str], Backend],
    log: Log,
    beginning: Beginning | None = None,
    segment_bytes: int = SEGMENT_BYTES,
) -> State:
    """Open or make the member's log and backend, and load the state that they hold.

    ``beginning`` is for a data directory without a log. Raises CorruptLog, BackendError, DataDirError,
    BootstrapError or OSError; nothing is left open then.
    """
    backend = ReplaceableBackend(make_backend(data_dir.store))
    try:
        _restore(config, disk, data_dir, backend, log)
        wal, identity, recovered = _open_wal(disk, data_dir, backend, log, beginning, segment_bytes)
        if recovered is not None:
            recovered = _behind_snapshot(backend, wal, recovered, log)
    except BaseException:
        backend.close()
        raise
    try:
        stamp = HeaderStamp(identity.cluster_id, identity.member_id)
        min_ttl = minimum_ttl_s(
            election_ms=config.election_timeout_ms, heartbeat_ms=config.heartbeat_interval_ms
        )
        applier = Applier(backend, stamp, min_ttl=min_ttl)
        check_recovered(applier.members, identity, config)
        if config.force_new_cluster and recovered is not None:
            gone = force_new_cluster(applier, backend, recovered.entries, identity.member_id)
            wal.release(applier.applied_index, applier.term)
            log.warning("forced a new cluster", removed=[f"{number:x}" for number in gone])
        core = _make_core(config, identity, applier, recovered, data_dir)
        hub = WatchHub(applier.store)
    except BaseException:
        backend.close()
        wal.close()
        raise
    return State(
        identity=identity,
        wal=wal,
        backend=backend,
        stamp=stamp,
        applier=applier,
        hub=hub,
        core=core,
        is_new=recovered is None,
    )


def _restore(config: Config, disk: Disk, data_dir: DataDir, backend: Backend, log: Log) -> None:
    if config.restore_snapshot:
        has_log = Wal.exists(disk, data_dir.wal)
        path = config.restore_snapshot
        restore(disk, path, backend, log, root=data_dir.root, has_log=has_log)
    check_whole(backend, data_dir.store)


def _open_wal(
    disk: Disk,
    data_dir: DataDir,
    backend: Backend,
    log: Log,
    beginning: Beginning | None,
    segment_bytes: int,
) -> tuple[Wal, Identity, Recovered | None]:
    if not Wal.exists(disk, data_dir.wal):
        if not is_blank(backend):
            raise DataDirError(
                f"the log in {data_dir.wal} is missing, but {data_dir.store} holds data: "
                "give back the log, or restore from a backup"
            )
        if beginning is None:
            raise DataDirError(f"the log in {data_dir.wal} is missing")
        # In this order: until there is a log, the next start begins again.
        settle(backend, beginning)
        start = (beginning.index, beginning.term)
        metadata = beginning.identity.to_metadata()
        wal = Wal.create(disk, data_dir.wal, metadata, segment_bytes=segment_bytes, start=start)
        return wal, beginning.identity, None
    wal = Wal.open(disk, data_dir.wal, segment_bytes=segment_bytes)
    try:
        recovered = wal.recover()
        identity = identity_from_metadata(recovered.metadata)
    except BaseException:
        wal.close()
        raise
    if recovered.torn is not None:
        log.warning(
            "cut an interrupted write off the end of the log",
            path=recovered.torn.path,
            offset=recovered.torn.offset,
            size_bytes=recovered.torn.size_bytes,
            copy=recovered.torn.copy,
        )
    return wal, identity, recovered


def _make_core(
    config: Config,
    identity: Identity,
    applier: Applier,
    recovered: Recovered | None,
    data_dir: DataDir,
) -> RaftCore:
    raft_config = RaftConfig(
        node_id=NodeId(identity.member_id),
        membership=applier.members.membership,
        election_ticks=config.election_ticks,
        pre_vote=config.pre_vote,
        max_committed_bytes=config.max_committed_bytes,
        max_append_bytes=config.max_append_bytes,
    )
    applied, term = Index(applier.applied_index), Term(applier.term)
    if recovered is None:
        log = RaftLog(base_index=applied, base_term=term)
        return RaftCore(raft_config, HardState(term=term, commit=applied), log)
    if applied < recovered.released_index:
        raise DataDirError(
            f"{data_dir.store} is missing or too old: it ends at entry {applied}, and the "
            f"log begins after {recovered.released_index}; restore from a backup"
        )
    log = _log_of(recovered)
    if log.term_at(applied) != term:
        raise DataDirError(
            f"the log in {data_dir.wal} ends at entry {log.last_index}, and {data_dir.store} has "
            f"applied {applied}: they do not belong together"
        )
    if config.force_new_cluster:
        log.compact(applied)
    else:
        # A log from before there were founders begins with an entry, and a joiner must not get that.
        log.compact(min(applied, Index(FOUNDED_INDEX)))
    state = _at_least(recovered.hard_state, log, applied)
    return RaftCore(raft_config, state, log, applied=applied)


def _log_of(recovered: Recovered) -> RaftLog:
    """Return the log in memory, with what is at hand from before the backend's position."""
    history = recovered.history
    if history:
        return RaftLog(
            base_index=history[0].index,
            base_term=history[0].term,
            entries=[*history[1:], *recovered.entries],
        )
    return RaftLog(
        base_index=Index(recovered.released_index),
        base_term=Term(recovered.released_term),
        entries=recovered.entries,
    )


def _behind_snapshot(backend: Backend, wal: Wal, recovered: Recovered, log: Log) -> Recovered:
    """Let the log begin behind a snapshot that was installed just before a crash.

    The backend was replaced and the log was not told: then it does not reach the snapshot, or holds
    another entry in its place, which the snapshot proves wrong.
    """
    index, term = installed_position(backend)
    if index != applied_index(backend) or index <= recovered.released_index:
        return recovered
    entry = next((entry for entry in recovered.entries if entry.index == index), None)
    if entry is not None and entry.term == term:
        return recovered
    state = recovered.hard_state
    if state.term < term:
        state = HardState(term=Term(term), commit=Index(index))
    wal.append(state, (), behind=(index, term))
    log.warning("the log begins anew behind an installed snapshot", index=index, term=term)
    return replace(
        recovered,
        hard_state=state,
        entries=[],
        released_index=index,
        released_term=term,
        history=[],
    )


def _at_least(state: HardState, log: RaftLog, applied: Index) -> HardState:
    """Return the hard state with what follows from log and backend, if it says less itself.

    A founder's term is taken before it has written any, and what was applied is committed although the
    commit index on disk may lag.
    """
    commit = Index(max(state.commit, applied))
    if state.term < log.base_term:
        return HardState(term=log.base_term, commit=commit)
    return HardState(term=state.term, vote=state.vote, commit=commit)
