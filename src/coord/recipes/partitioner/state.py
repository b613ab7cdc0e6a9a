"""The keys of a partitioner, and what they tell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from coord import notices
from coord.errors import DecodeError, InvalidArgument
from coord.metadata import parse
from coord.names import as_text
from coord.recipes.membership import MemberCodec, MemberRecord
from coord.recipes.partitioner.assignment import assign
from coord.store.keys import prefix_range
from coord.store.paging import Pages

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from coord.core import Core
    from coord.store.values import KeyValue

MAX_WEIGHT = 1_000_000
_CODEC = MemberCodec()
_ADVICE = "each member keeps all of them in memory; make partitions larger"


class Names:
    """The keys below a partitioner's name."""

    def __init__(self, name: bytes) -> None:
        self.name: bytes = name
        self.text: str = as_text(name)
        self.prefix: bytes = name + b"/"
        self.members: bytes = self.prefix + b"members/"
        self.owners: bytes = self.prefix + b"owners/"

    def member(self, ident: str) -> bytes:
        """Return the key of a member."""
        return self.members + ident.encode()

    def owner(self, partition: str) -> bytes:
        """Return the key of a partition's owner."""
        return self.owners + partition.encode()

    def partition_of(self, key: bytes) -> str:
        """Return the partition whose owner's key it is."""
        return as_text(key[len(self.owners) :])

    def member_of(self, key: bytes) -> str:
        """Return the id of the member whose key it is."""
        return as_text(key[len(self.members) :])


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionMember:
    """A member: its id, its weight, its incarnation, and the lease of its session."""

    id: str
    weight: int
    token: int
    lease_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionOwner:
    """Who owns a partition: the member's id, the fencing token, and the lease that it is held through."""

    partition: str
    member: str
    token: int
    lease_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """Who has what, as of one revision of the store."""

    revision: int
    members: tuple[PartitionMember, ...]
    """Those who take part, by their ids."""
    owners: Mapping[str, PartitionOwner]
    """The owner of each partition that has one, also of those that are not in ``partitions``."""
    targets: Mapping[str, str]
    """The member that should have each partition; empty without members."""
    partitions: frozenset[str]
    """The partitions as the one who asked has them."""

    @property
    def unowned(self) -> tuple[str, ...]:
        """The partitions without an owner, sorted."""
        return tuple(sorted(self.partitions - self.owners.keys()))

    @property
    def moving(self) -> tuple[str, ...]:
        """The partitions that somebody owns who should not, or that nobody owns who should, sorted."""
        have = self.owners
        return tuple(
            sorted(
                [p for p, who in self.targets.items() if p not in have or have[p].member != who]
                + [p for p in have if p not in self.partitions]
            )
        )


def check_partitions(partitions: int | Iterable[str]) -> frozenset[str]:
    """Return the names of partitions; a number stands for ``"0"``, ``"1"``, ... Raises :class:`InvalidArgument`."""
    if isinstance(partitions, int):
        if partitions < 0:
            raise InvalidArgument(f"there must be 0 partitions or more, not {partitions}")
        return frozenset(map(str, range(partitions)))
    if isinstance(partitions, (str, bytes)):
        raise InvalidArgument("partitions are a number or several names, not one name")
    found = frozenset(partitions)
    for each in cast("frozenset[object]", found):
        if not isinstance(each, str) or not each or "\0" in each:
            raise InvalidArgument(f"a partition is text that is not empty, without NUL: {each!r}")
    return found


def member_value(nonce: str, weight: int) -> bytes:
    """Return the value of a member's key."""
    return _CODEC.encode(MemberRecord(nonce, {"weight": weight}))


def nonce_of(value: bytes) -> str:
    """Return the nonce in a member's key, nothing if there is none."""
    try:
        return _CODEC.decode(value).nonce
    except DecodeError:
        return ""


def weight_of(value: bytes) -> int:
    """Return the weight in a member's key; 0 for one that takes no part, since it says none."""
    try:
        data = _CODEC.decode(value).data
    except DecodeError:
        return 0
    weight: Any = cast("dict[str, Any]", data).get("weight") if isinstance(data, dict) else None
    if isinstance(weight, int) and 1 <= weight <= MAX_WEIGHT:
        return weight
    return 0


async def read_assignment(core: Core, names: Names, partitions: frozenset[str]) -> Assignment:
    """Read who has what, in pages of one revision. Raises what reading raises."""
    members: list[PartitionMember] = []
    owners: dict[str, PartitionOwner] = {}
    revision = 0
    async for page in Pages(core.kv, prefix_range(names.prefix)):
        revision = revision or page.revision
        for kv in page.items:
            if kv.key.startswith(names.members):
                members += _member(names, kv)
            elif kv.key.startswith(names.owners):
                owner = _owner(names, kv)
                owners[owner.partition] = owner
    note_count(core, names, len(owners))
    weights = {each.id: each.weight for each in members}
    return Assignment(
        revision=revision,
        members=tuple(members),
        owners=owners,
        targets=await targets(core, partitions, weights),
        partitions=partitions,
    )


def _member(names: Names, kv: KeyValue) -> list[PartitionMember]:
    weight = weight_of(kv.value)
    if not weight:
        return []
    return [
        PartitionMember(
            id=names.member_of(kv.key), weight=weight, token=kv.create_revision, lease_id=kv.lease
        )
    ]


def _owner(names: Names, kv: KeyValue) -> PartitionOwner:
    said = parse(kv.value).get("owner")
    return PartitionOwner(
        partition=names.partition_of(kv.key),
        member=said if isinstance(said, str) else "",
        token=kv.create_revision,
        lease_id=kv.lease,
    )


# As many pairs as a few milliseconds are enough for; more are left to a worker thread.
_INLINE_PAIRS = 2048


async def targets(
    core: Core, partitions: frozenset[str], members: dict[str, int]
) -> dict[str, str]:
    """Compute who should have what, without holding up the loop."""
    if len(partitions) * len(members) <= _INLINE_PAIRS:
        return assign(partitions, members)
    return await core.env.offload.run(assign, partitions, members)


def note_count(core: Core, names: Names, count: int) -> None:
    """Warn once of very many partitions."""
    if count > notices.MANY_KEYS:
        core.key_counts.note(f"partitioner {names.text!r}", count, _ADVICE)
