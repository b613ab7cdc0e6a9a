"""How a cluster begins, and how a member gets into one that runs (etcd ops: "Bootstrap", "IDs").

A member without a log asks, in this order: who are the members (flags or DNS), which of them am I, and
does this cluster run already? The answer is an `Beginning`, which `settle` writes into the empty backend.
Afterwards identity and members come from log and backend, and none of these flags matters any more.

The founding is a snapshot, not a run of log entries. Each founder writes the same table of members as
the state at index 1, term 1, and its log begins behind that. Nothing has to be replayed or agreed on,
all founders are equal byte for byte, and no log ever holds the founding: a member that joins later
begins at index 0, where no leader has entries for it, so it always gets a snapshot, and with it the
table. (With the table beside a log that starts at 1, a joiner could replay that log from the front and
would believe itself alone.)
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from coord.rpc.status import RpcError
from coord.wire import rpc_pb2
from coord_server.bootstrap import BootstrapError, Identity
from coord_server.config_check import parse_initial_cluster
from coord_server.member_ids import cluster_id, member_id
from coord_server.member_records import member_records
from coord_server.srv_records import discovered_members
from coord_server.storage.backend import APPLIED_INDEX_KEY, APPLIED_TERM_KEY, Batch, Bucket

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from typing import TypeAlias

    from coord_server.config import Config
    from coord_server.flag_values import Url
    from coord_server.log import Log
    from coord_server.members import Members
    from coord_server.srv_records import SrvResolver
    from coord_server.storage.backend import Backend

    AskMembers: TypeAlias = Callable[[str], Awaitable[rpc_pb2.MemberListResponse]]
    """Asks whoever serves a peer URL for its members; ``header.cluster_id`` is its cluster.

    Raises OSError, TimeoutError or RpcError where nobody answers; bounded by its own deadline.
    """

FOUNDED_INDEX: Final = 1
FOUNDED_TERM: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Beginning:
    """Where a member without a log comes from.

    A founder's ``members`` are all founders, and its log begins behind (``index``, ``term``). One that
    joins knows nobody yet, not even itself: it begins at (0, 0) and learns all from the leader;
    ``contacts`` are the members that it was told of, to be reached until then.
    """

    identity: Identity
    members: tuple[rpc_pb2.Member, ...]
    index: int = FOUNDED_INDEX
    term: int = FOUNDED_TERM
    contacts: tuple[rpc_pb2.Member, ...] = ()

    @property
    def is_joining(self) -> bool:
        """Tell whether the cluster exists already."""
        return not self.members


# Who the members are.


async def plan_beginning(
    config: Config, *, ask: AskMembers, resolver: SrvResolver, log: Log
) -> Beginning:
    """Return where this member without a log comes from, by all the flags that say so.

    Raises BootstrapError; MissingExtra if DNS is asked for and its package is not installed.
    """
    if config.discovery_srv:
        named = await discovered_members(config, resolver, log)
        _check_unique(named)
    else:
        named = configured_members(config)
    return await find_beginning(config, named, ask, log)


def configured_members(config: Config) -> dict[str, tuple[Url, ...]]:
    """Return the members that ``--initial-cluster`` names, or this one alone (etcd ops: "Bootstrap").

    Raises BootstrapError where the flags contradict each other.
    """
    if not config.initial_cluster:
        named = {config.name: config.initial_advertise_peer_urls}
    else:
        try:
            named = parse_initial_cluster(config.initial_cluster)
        except ValueError as error:
            raise BootstrapError(f"error setting up initial cluster: {error}") from error
    _check_unique(named)
    own = named.get(config.name)
    if own is None:
        raise BootstrapError(
            f'couldn\'t find local name "{config.name}" in the initial cluster configuration'
        )
    _check_advertised(config, own)
    return named


def _check_unique(named: Mapping[str, tuple[Url, ...]]) -> None:
    seen: set[str] = set()
    for urls in named.values():
        for url in map(str, urls):
            if url in seen:
                raise BootstrapError(f"initial cluster {_shown(named)} has duplicate url")
            seen.add(url)


def _check_advertised(config: Config, own: tuple[Url, ...]) -> None:
    listed = sorted(str(url) for url in own)
    advertised = sorted(str(url) for url in config.initial_advertise_peer_urls)
    if listed == advertised:
        return
    missing = [url for url in listed if url not in advertised]
    if missing:
        shown = ",".join(f"{config.name}={url}" for url in missing)
        raise BootstrapError(
            f"--initial-cluster has {shown} but missing from "
            f"--initial-advertise-peer-urls={','.join(advertised)}"
        )
    missing = [url for url in advertised if url not in listed]
    raise BootstrapError(
        f"--initial-advertise-peer-urls has {','.join(missing)} but missing from "
        f"--initial-cluster={_shown({config.name: own})}"
    )


def _shown(named: Mapping[str, tuple[Url, ...]]) -> str:
    return ",".join(sorted(f"{name}={url}" for name, urls in named.items() for url in urls))


# Which cluster that is.


def founded(named: Mapping[str, tuple[Url, ...]], name: str, token: str) -> Beginning:
    """Return the beginning of the founder ``name`` of a new cluster; equal at all founders but for it."""
    members = [
        rpc_pb2.Member(ID=member_id(urls, token), name=each, peerURLs=sorted(urls))
        for each, urls in ((each, [str(url) for url in urls]) for each, urls in named.items())
    ]
    members.sort(key=lambda member: member.ID)
    own = next(member.ID for member in members if member.name == name)
    identity = Identity(member_id=own, cluster_id=cluster_id(member.ID for member in members))
    return Beginning(identity=identity, members=tuple(members))


async def find_beginning(
    config: Config, named: Mapping[str, tuple[Url, ...]], ask: AskMembers, log: Log
) -> Beginning:
    """Return where this member, one of ``named``, comes from; all others are asked.

    Raises BootstrapError: nobody to join answers, the list does not fit the cluster that runs, or this
    very member is running already.
    """
    others = sorted(
        {str(url) for name, urls in named.items() if name != config.name for url in urls}
    )
    if config.initial_cluster_state == "existing":
        running = await _ask_all(others, ask, log)
        if running is None:
            raise BootstrapError(
                "cannot fetch cluster info from peer urls: "
                "could not retrieve cluster information from the given URLs"
            )
        return joined(named, config.name, running)
    beginning = founded(named, config.name, config.initial_cluster_token)
    # Together with the other founders nobody is there yet, and that is fine.
    running = await _ask_all(others, ask, log)
    if running is not None:
        _check_not_running(beginning.identity.member_id, running)
    return beginning


async def _ask_all(
    urls: Sequence[str], ask: AskMembers, log: Log
) -> rpc_pb2.MemberListResponse | None:
    """Return the newest answer that names members; None if nobody gave one.

    The first would do most of the time. But a member that lags behind may still list one that was here
    before, at our URLs, and the id that we would take then is over.
    """

    async def answer_of(url: str) -> rpc_pb2.MemberListResponse | None:
        try:
            return await ask(url)
        except (OSError, TimeoutError, RpcError) as error:
            log.warning("failed to get cluster response", address=url, error=str(error))
            return None

    async with asyncio.TaskGroup() as group:
        asked = [group.create_task(answer_of(url)) for url in urls]
    answers = [task.result() for task in asked]
    told = [answer for answer in answers if answer is not None and answer.members]
    return max(told, key=lambda answer: answer.header.revision, default=None)


def _check_not_running(own: int, running: rpc_pb2.MemberListResponse) -> None:
    for member in running.members:
        # Names are given by the founding; client URLs only by a member that has started.
        if own == member.ID and member.clientURLs:
            raise BootstrapError(
                f"member {own:x} has already been bootstrapped: if its data is lost, "
                "remove it from the cluster and add it again"
            )


def joined(
    named: Mapping[str, tuple[Url, ...]], name: str, running: rpc_pb2.MemberListResponse
) -> Beginning:
    """Return the beginning of the member ``name``, which was added to the cluster ``running`` before.

    Members are matched by their peer URLs; names may differ. Raises BootstrapError.
    """
    try:
        own = _own_id(named, name, running)
    except BootstrapError as error:
        raise BootstrapError(f"error validating peerURLs {_described(running)}: {error}") from error
    # One that has run had a log, with votes and entries in it that the others count on.
    _check_not_running(own, running)
    identity = Identity(member_id=own, cluster_id=running.header.cluster_id)
    contacts = tuple(sorted(running.members, key=lambda each: each.ID))
    return Beginning(identity=identity, members=(), index=0, term=0, contacts=contacts)


def _own_id(
    named: Mapping[str, tuple[Url, ...]], name: str, running: rpc_pb2.MemberListResponse
) -> int:
    wanted = {each: sorted(str(url) for url in urls) for each, urls in named.items()}
    if len(running.members) != len(wanted):
        raise BootstrapError("member count is unequal")
    own = 0
    for member in sorted(running.members, key=lambda each: each.ID):
        urls = sorted(member.peerURLs)
        match = next((each for each, theirs in wanted.items() if theirs == urls), None)
        if match is None:
            raise BootstrapError(
                "PeerURLs: no match found for existing member "
                f"({member.ID:x}, [{' '.join(member.peerURLs)}])"
            )
        if match == name:
            own = member.ID
    return own


def _described(running: rpc_pb2.MemberListResponse) -> str:
    members = " ".join(
        f"{{ID:{m.ID:x} Name:{m.name} PeerURLs:[{' '.join(m.peerURLs)}]}}"
        for m in sorted(running.members, key=lambda each: each.ID)
    )
    return f"{{ClusterID:{running.header.cluster_id:x} Members:[{members}]}}"


# Into the backend, and out of it.


def is_blank(backend: Backend) -> bool:
    """Tell whether a backend holds no more than what a member begins with, or not even that."""
    applied = backend.get(Bucket.META, APPLIED_INDEX_KEY)
    return applied is None or int.from_bytes(applied, "big") <= FOUNDED_INDEX


def settle(backend: Backend, beginning: Beginning) -> None:
    """Write what a member begins with; durable on return. To be done before its log is made.

    An earlier attempt that was interrupted is overwritten: only the log makes a beginning final.
    """
    batch = Batch()
    for key, _ in backend.scan(Bucket.MEMBERS):
        batch.delete(Bucket.MEMBERS, key)
    if beginning.members:
        for key, value in member_records(beginning.members):
            batch.put(Bucket.MEMBERS, key, value)
    batch.put(Bucket.META, APPLIED_INDEX_KEY, beginning.index.to_bytes(8, "big"))
    batch.put(Bucket.META, APPLIED_TERM_KEY, beginning.term.to_bytes(8, "big"))
    backend.write(batch)


def check_recovered(members: Members, identity: Identity, config: Config) -> None:
    """Refuse to run a member whose stored table forbids it. Raises BootstrapError."""
    if members.is_removed(identity.member_id):
        raise BootstrapError(
            f"the member {identity.member_id:x} has been permanently removed from the cluster "
            f"{identity.cluster_id:x}: the data directory {config.data_path} must be removed"
        )
    learners = sum(member.isLearner for member in members.members())
    if learners > config.max_learners:
        raise BootstrapError("membership: too many learner members in cluster")
